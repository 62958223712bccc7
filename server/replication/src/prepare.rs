//! The asked side of switching replication on and off: makes sure that the table exists here with the asker's families,
//! is empty, and is linked back. Families that both regions have must be alike; each gets those that only the other has.

use crate::link::{PeerFamily, PrepareTable, Prepared, RegionIdentity, ReleaseTable};
use crate::receiver::check_peer;
use crate::verbs::{Verbs, peer_family, stale};
use std::collections::BTreeMap;
use tidemark_base::{Error, ErrorKind, FamilyId, RegionId, Result, TableId};
use tidemark_catalog::{
    CatalogView, Command, FamilyRecord, FamilySpec, LinkChange, LinkState, RequestId, TableRecord, alter_hlc,
};

impl Verbs {
    /// Answers the asking region's step 1 (dry run) and 3; see [`crate::verbs`].
    pub(crate) async fn on_prepare_table(&self, request: PrepareTable) -> Result<Prepared> {
        let view = self.catalog.view();
        check_peer(&view, &request.from)?;
        let plan = plan(&view, &request)?;
        let table = view.table(&request.table);
        let link = table.and_then(|table| table.links.get(&request.from.name));
        let linked = link.map(|link| link.state);
        if let Some(table) = table {
            self.refuse_rows(table, &request.from.name)?;
            if linked.is_none() {
                refuse_history(table, &view.region_name, self.clock.now_ms())?;
            }
        }
        // INV-42: a complete link is with one table of the asker. An asker without a link takes the refusal of a dry run for
        // one; one that is complete itself takes it for the answer.
        let other = link.is_some_and(|link| link.peer_table != Some(request.table_id));
        if linked == Some(LinkState::Enabled) && (other || request.dry_run) {
            return Err(stale(&request.table, &view.region_name, &request.from.name));
        }
        if request.dry_run {
            return Ok(plan.prepared(table.map(|table| table.id)));
        }
        self.carry_out(&request, &plan).await?;
        let id = self.catalog.view().table_or_error(&request.table)?.id;
        if linked != Some(LinkState::Enabled) {
            self.prepare_link(&request.table, id, &request.from.name, linked)
                .await?;
            let peer_table = request.table_id;
            self.set_link(&request.table, &request.from.name, LinkChange::Enable { peer_table })
                .await?;
            tracing::info!(
                table = request.table,
                peer = request.from.name,
                "replication is on, as the peer asked"
            );
        }
        Ok(plan.prepared(Some(id)))
    }

    async fn carry_out(&self, request: &PrepareTable, plan: &Plan) -> Result<()> {
        if plan.create {
            let create = Command::CreateTable {
                request_id: RequestId::random(&self.entropy),
                name: request.table.clone(),
                families: request.families.iter().map(spec).collect(),
                split_at: request.split_at.clone(),
                max_future_micros: Some(request.max_future_micros),
                if_not_exists: true,
                generations: Some(generations(&request.families)),
            };
            self.catalog.execute(create).await?;
        } else if !plan.add.is_empty() {
            self.add_families(&request.table, &plan.add).await?;
        }
        Ok(())
    }

    /// Adds families as another region has them.
    pub(crate) async fn add_families(&self, table: &str, families: &[PeerFamily]) -> Result<()> {
        let alter = Command::AlterTable {
            request_id: RequestId::random(&self.entropy),
            name: table.to_owned(),
            add: families.iter().map(spec).collect(),
            set: Vec::new(),
            drop: Vec::new(),
            max_future_micros: None,
            generations: Some(generations(families)),
            now_micros: self.clock.now_micros(),
            hlc: alter_hlc(&*self.clock),
        };
        self.catalog.execute(alter).await.map(|_| ())
    }

    /// Ends the replication of a table with the asking region. No effect where there is none.
    pub(crate) async fn on_release_table(&self, request: ReleaseTable) -> Result<()> {
        let view = self.catalog.view();
        check_peer(&view, &request.from)?;
        match view.table(&request.table) {
            Some(table) if table.links.contains_key(&request.from.name) => {
                self.release(table, &request.from.name).await
            }
            _ => Ok(()),
        }
    }
}

/// What is to be done so that the table fits the asker's.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    create: bool,
    add: Vec<PeerFamily>,
    /// What the asker lacks.
    missing: Vec<PeerFamily>,
}

impl Plan {
    fn prepared(&self, table_id: Option<TableId>) -> Prepared {
        Prepared {
            created: self.create,
            families_added: match self.create {
                true => Vec::new(),
                false => self.add.iter().map(|family| family.name.clone()).collect(),
            },
            families_missing: self.missing.clone(),
            table_id,
        }
    }
}

fn plan(view: &CatalogView, request: &PrepareTable) -> Result<Plan> {
    plan_for(view.table(&request.table), &view.region_name, request)
}

fn plan_for(table: Option<&TableRecord>, region: &str, request: &PrepareTable) -> Result<Plan> {
    let mismatch = |family: &PeerFamily, why: String| {
        Error::new(ErrorKind::FailedPrecondition, "FAMILY_MISMATCH", why)
            .object(format!("table {} family {}", request.table, family.name))
            .action(format!(
                "use another family name, or drop and create the table in both regions: tidemark table describe {}",
                request.table
            ))
    };
    for family in &request.families {
        if family.id != FamilyId::derive(&family.name, family.generation) {
            let why = "the asking region derives family ids in another way: compare the releases of both regions";
            return Err(mismatch(family, why.to_owned()));
        }
    }
    let Some(table) = table else {
        return Ok(Plan {
            create: true,
            add: request.families.clone(),
            missing: Vec::new(),
        });
    };
    let mut add = Vec::new();
    for family in &request.families {
        match table.family(&family.name) {
            Some(here) if here.settings.id == family.id => {
                same_settings(&request.table, &peer_family(here), region, family, &request.from.name)?;
            }
            Some(here) => {
                let why = format!(
                    "family {} is generation {} in region {region} and {} in region {}: it was dropped and created again \
                     in one of them",
                    family.name, here.generation, family.generation, request.from.name
                );
                return Err(mismatch(family, why));
            }
            None => {
                let unused = table.next_generations.get(&family.name).copied().unwrap_or(0);
                if family.generation < unused {
                    let why = format!(
                        "family {} of generation {} was dropped in region {region}",
                        family.name, family.generation
                    );
                    return Err(mismatch(family, why));
                }
                add.push(family.clone());
            }
        }
    }
    let named = |name: &str| request.families.iter().any(|family| family.name == name);
    let missing = table.families.iter().filter(|family| !named(&family.settings.name));
    Ok(Plan {
        create: false,
        add,
        missing: missing.map(peer_family).collect(),
    })
}

fn generations(families: &[PeerFamily]) -> BTreeMap<String, u32> {
    let generation = |family: &PeerFamily| (family.name.clone(), family.generation);
    families.iter().map(generation).collect()
}

/// The families that the peer has and this region has not, as a request of the peer to have them here. Refused if this region
/// cannot have them under the same ids.
pub(crate) fn missing_here(
    view: &CatalogView,
    table: &TableRecord,
    peer: &str,
    region: RegionId,
    promised: &Prepared,
) -> Result<PrepareTable> {
    let mut request = PrepareTable {
        from: RegionIdentity {
            name: peer.to_owned(),
            region,
        },
        table: table.name.clone(),
        table_id: table.id,
        families: promised.families_missing.clone(),
        split_at: Vec::new(),
        max_future_micros: table.max_future_micros,
        dry_run: true,
    };
    request.families = plan_for(Some(table), &view.region_name, &request)?.add;
    Ok(request)
}

/// R10, R11: what a family's limits hide must be hidden in both regions, or their contents differ for ever (O5).
fn same_settings(table: &str, here: &PeerFamily, region: &str, there: &PeerFamily, peer: &str) -> Result<()> {
    let ttl = |family: &PeerFamily| {
        family
            .ttl_micros
            .map_or("none".to_owned(), |ttl| format!("{} ms", ttl / 1_000))
    };
    let versions = |family: &PeerFamily| family.max_versions.map_or("no limit".to_owned(), |max| max.to_string());
    let compression = |family: &PeerFamily| format!("{:?}", family.compression).to_lowercase();
    let settings: [(&str, String, String); 3] = [
        ("ttl", ttl(here), ttl(there)),
        ("max_versions", versions(here), versions(there)),
        ("compression", compression(here), compression(there)),
    ];
    let Some((what, ours, theirs)) = settings.into_iter().find(|(_, ours, theirs)| ours != theirs) else {
        return Ok(());
    };
    let why = format!(
        "family {}: {what} is {ours} in region {region} and {theirs} in region {peer}",
        here.name
    );
    let action = format!(
        "set it alike in both: tidemark table alter {table} --set-family {}:…",
        here.name
    );
    Err(Error::new(ErrorKind::FailedPrecondition, "FAMILY_SETTINGS_DIFFER", why)
        .object(format!("table {table} family {}", here.name))
        .action(action))
}

/// A family that hides versions because of limits that it had earlier cannot be made alike in another region: that history
/// is not told. A table that is being linked is empty, so the family may as well begin anew.
pub(crate) fn refuse_history(table: &TableRecord, region: &str, now_ms: u64) -> Result<()> {
    let hides = |family: &&FamilyRecord| {
        let settings = &family.settings;
        // An era that has ended before the first row is written hides nothing.
        settings.expiry_floor != i64::MIN || settings.past_limits.iter().any(|past| past.until >> 16 >= now_ms)
    };
    let Some(family) = table.families.iter().find(hides) else {
        return Ok(());
    };
    let name = &family.settings.name;
    let why = format!(
        "the limits of family {name} were changed in region {region}: it hides versions there that the other region would show"
    );
    Err(Error::new(ErrorKind::FailedPrecondition, "FAMILY_HAS_HISTORY", why)
        .object(format!("table {} family {name}", table.name))
        .action(format!(
            "after a change of max_versions wait 10 s and repeat; after a raised ttl begin the family anew while the table is \
             empty: tidemark table alter {} --drop-family {name}, then --add-family {name}:…",
            table.name
        )))
}

fn spec(family: &PeerFamily) -> FamilySpec {
    FamilySpec {
        name: family.name.clone(),
        ttl_micros: family.ttl_micros,
        max_versions: family.max_versions,
        compression: family.compression,
        layout: Some(family.layout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::schema::{Compression, FamilySettings, Layout};

    fn family(name: &str, generation: u32) -> PeerFamily {
        PeerFamily {
            name: name.to_owned(),
            id: FamilyId::derive(name, generation),
            generation,
            ttl_micros: None,
            max_versions: None,
            compression: Compression::Lz4,
            layout: Layout::Cells,
        }
    }

    fn request(families: Vec<PeerFamily>) -> PrepareTable {
        PrepareTable {
            from: RegionIdentity {
                name: "east".into(),
                region: RegionId(1),
            },
            table: "t".into(),
            table_id: TableId(9),
            families,
            split_at: Vec::new(),
            max_future_micros: 1,
            dry_run: false,
        }
    }

    fn table(families: &[(&str, u32)], next: &[(&str, u32)]) -> TableRecord {
        TableRecord {
            id: TableId(1),
            name: "t".into(),
            revision: 1,
            families: families
                .iter()
                .map(|(name, generation)| FamilyRecord {
                    settings: FamilySettings::new(name, *generation),
                    generation: *generation,
                })
                .collect(),
            next_generations: next.iter().map(|(name, next)| ((*name).to_owned(), *next)).collect(),
            max_future_micros: 1,
            links: BTreeMap::new(),
        }
    }

    #[test]
    fn families_are_created_added_or_refused() {
        let asked = request(vec![family("m", 1), family("n", 0)]);
        assert!(plan_for(None, "west", &asked).unwrap().create);
        let plan = plan_for(Some(&table(&[("m", 1)], &[("m", 2)])), "west", &asked).unwrap();
        assert_eq!(
            (plan.create, plan.prepared(None).families_added),
            (false, vec!["n".to_owned()])
        );
        let other = plan_for(Some(&table(&[("m", 0)], &[("m", 1)])), "west", &asked).unwrap_err();
        assert_eq!(other.reason(), "FAMILY_MISMATCH");
        let dropped = plan_for(Some(&table(&[], &[("m", 2)])), "west", &asked).unwrap_err();
        assert!(dropped.message().contains("was dropped"));
        let mut strange = family("m", 1);
        strange.id = FamilyId(1);
        assert!(plan_for(None, "west", &request(vec![strange])).is_err());
    }

    #[test]
    fn what_only_the_asked_region_has_is_told() {
        let here = table(&[("m", 0), ("only", 2)], &[("m", 1), ("only", 3)]);
        let plan = plan_for(Some(&here), "west", &request(vec![family("m", 0)])).unwrap();
        assert_eq!(plan.missing, [family("only", 2)]);
        assert_eq!(plan.prepared(Some(TableId(1))).families_missing, [family("only", 2)]);
        let whole = plan_for(Some(&here), "west", &request(vec![family("m", 0), family("only", 2)])).unwrap();
        assert!(whole.missing.is_empty() && whole.add.is_empty());
    }

    /// Without it the regions would differ for ever, and nobody would know why (R10, R11, O5).
    #[test]
    fn families_with_other_limits_are_refused_with_both_values() {
        let differs = |change: &dyn Fn(&mut PeerFamily)| {
            let mut theirs = family("m", 0);
            change(&mut theirs);
            let error = plan_for(Some(&table(&[("m", 0)], &[("m", 1)])), "west", &request(vec![theirs])).unwrap_err();
            assert_eq!(error.reason(), "FAMILY_SETTINGS_DIFFER");
            assert!(error.next_action().contains("table alter t"), "{error}");
            error.message().to_owned()
        };
        assert_eq!(
            differs(&|family| family.ttl_micros = Some(7_000_000)),
            "family m: ttl is none in region west and 7000 ms in region east"
        );
        assert_eq!(
            differs(&|family| family.max_versions = Some(3)),
            "family m: max_versions is no limit in region west and 3 in region east"
        );
        assert_eq!(
            differs(&|family| family.compression = Compression::Zstd),
            "family m: compression is lz4 in region west and zstd in region east"
        );
    }

    #[test]
    fn a_family_that_hides_by_earlier_limits_is_refused() {
        let mut here = table(&[("m", 0)], &[("m", 1)]);
        assert!(refuse_history(&here, "west", 1_000).is_ok());
        here.families[0].settings.set_max_versions(Some(3), 1_000 << 16);
        assert_eq!(
            refuse_history(&here, "west", 1_000).unwrap_err().reason(),
            "FAMILY_HAS_HISTORY"
        );
        assert!(refuse_history(&here, "west", 1_001).is_ok(), "the era is over");
        here.families[0].settings.set_ttl(Some(1_000), 5_000);
        here.families[0].settings.set_ttl(None, 9_000);
        let error = refuse_history(&here, "west", 1_001).unwrap_err();
        assert!(error.next_action().contains("--drop-family m"), "{error}");
    }
}
