//! Two facts of one coordinate whose stamps differ in their region alone. Regions stamp by themselves, so it happens that
//! two of them give the same time; the winner must be the same wherever and in whatever order the two arrive (R3).

use crate::world::{NOW, World, family, stamp};
use tidemark_base::{CellRef, ReadSpec, RegionId, Stamp};

fn put(world: &World, region: u16, value: &str) {
    let mut batch = world.engine().write_batch();
    batch.put_cell(CellRef {
        row: b"r",
        family: family(0),
        qualifier: b"q",
        version: NOW,
        stamp: Stamp {
            region: RegionId(region),
            ..stamp(1)
        },
        value: value.as_bytes(),
    });
    batch.commit().unwrap();
}

fn value(world: &World) -> String {
    let spec = ReadSpec::default();
    let mut cursor = world.engine().read(&spec, NOW).unwrap();
    assert!(cursor.advance().unwrap());
    let value = String::from_utf8(cursor.cell().value.to_vec()).unwrap();
    assert!(!cursor.advance().unwrap(), "one coordinate, one visible cell");
    value
}

#[test]
fn the_greater_region_wins_whichever_comes_first() {
    for order in [[1, 2], [2, 1]] {
        for world in World::both() {
            for region in order {
                put(&world, region, &format!("of region {region}"));
            }
            assert_eq!(value(&world), "of region 2", "written in the order {order:?}");
            world.engine().flush().unwrap();
            world.compact();
            assert_eq!(
                value(&world),
                "of region 2",
                "compacted, written in the order {order:?}"
            );
        }
    }
}
