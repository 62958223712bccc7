//! What a table must hold, in the form that these tests compare: the oracle over acknowledged facts.

use std::collections::BTreeMap;
use tidemark_base::fact::Fact;
use tidemark_oracle::Oracle;

/// Row, family, qualifier, version.
type Coordinate = (Vec<u8>, u32, Vec<u8>, i64);
/// Visible cells.
pub type Cells = BTreeMap<Coordinate, Vec<u8>>;

/// What is visible of a set of facts in families without limits.
pub fn visible(facts: Vec<Fact>) -> Cells {
    let mut oracle = Oracle::new();
    facts.into_iter().for_each(|fact| oracle.add(fact));
    assert_eq!(
        oracle.corruption(),
        None,
        "one coordinate and stamp with two values (R5)"
    );
    let cells = oracle.alive().into_iter();
    cells
        .map(|c| {
            (
                (c.row.to_vec(), c.family.0, c.qualifier.to_vec(), c.version),
                c.value.to_vec(),
            )
        })
        .collect()
}
