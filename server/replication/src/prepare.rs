//! The asked side of switching replication on and off: makes sure that the table exists here with the asker's families,
//! is empty, and is linked back.

use crate::link::{PeerFamily, PrepareTable, Prepared, ReleaseTable};
use crate::receiver::check_peer;
use crate::verbs::{Verbs, stale};
use std::collections::BTreeMap;
use tidemark_base::{Error, ErrorKind, FamilyId, Result};
use tidemark_catalog::{CatalogView, Command, FamilySpec, LinkChange, LinkState, RequestId, TableRecord, alter_hlc};

impl Verbs {
    /// Answers the asking region's step 1 (dry run) and 3; see [`crate::verbs`].
    pub(crate) async fn on_prepare_table(&self, request: PrepareTable) -> Result<Prepared> {
        let view = self.catalog.view();
        check_peer(&view, &request.from)?;
        let plan = plan(&view, &request)?;
        let linked = view
            .table(&request.table)
            .and_then(|table| table.links.get(&request.from.name))
            .map(|link| link.state);
        if let Some(table) = view.table(&request.table) {
            self.refuse_rows(table, &request.from.name)?;
        }
        if request.dry_run {
            // An asker without a link takes this for a refusal; one that is complete itself takes it for the answer.
            return match linked {
                Some(LinkState::Enabled) => Err(stale(&request.table, &view.region_name, &request.from.name)),
                _ => Ok(plan.prepared()),
            };
        }
        self.carry_out(&request, &plan).await?;
        if linked != Some(LinkState::Enabled) {
            let id = self.catalog.view().table_or_error(&request.table)?.id;
            self.prepare_link(&request.table, id, &request.from.name, linked)
                .await?;
            self.set_link(&request.table, &request.from.name, LinkChange::Enable)
                .await?;
            tracing::info!(
                table = request.table,
                peer = request.from.name,
                "replication is on, as the peer asked"
            );
        }
        Ok(plan.prepared())
    }

    async fn carry_out(&self, request: &PrepareTable, plan: &Plan) -> Result<()> {
        let generations = |families: &[PeerFamily]| -> BTreeMap<String, u32> {
            families
                .iter()
                .map(|family| (family.name.clone(), family.generation))
                .collect()
        };
        let request_id = RequestId::random(&self.entropy);
        if plan.create {
            let create = Command::CreateTable {
                request_id,
                name: request.table.clone(),
                families: request.families.iter().map(spec).collect(),
                split_at: request.split_at.clone(),
                max_future_micros: Some(request.max_future_micros),
                if_not_exists: true,
                generations: Some(generations(&request.families)),
            };
            self.catalog.execute(create).await?;
        } else if !plan.add.is_empty() {
            let alter = Command::AlterTable {
                request_id,
                name: request.table.clone(),
                add: plan.add.iter().map(spec).collect(),
                set: Vec::new(),
                drop: Vec::new(),
                max_future_micros: None,
                generations: Some(generations(&plan.add)),
                now_micros: self.clock.now_micros(),
                hlc: alter_hlc(&*self.clock),
            };
            self.catalog.execute(alter).await?;
        }
        Ok(())
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
}

impl Plan {
    fn prepared(&self) -> Prepared {
        Prepared {
            created: self.create,
            families_added: match self.create {
                true => Vec::new(),
                false => self.add.iter().map(|family| family.name.clone()).collect(),
            },
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
        });
    };
    let mut add = Vec::new();
    for family in &request.families {
        match table.family(&family.name) {
            Some(here) if here.settings.id == family.id => {}
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
    Ok(Plan { create: false, add })
}

fn spec(family: &PeerFamily) -> FamilySpec {
    FamilySpec {
        name: family.name.clone(),
        ttl_micros: family.ttl_micros,
        max_versions: family.max_versions,
        compression: family.compression,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::RegionIdentity;
    use tidemark_base::schema::{Compression, FamilySettings};
    use tidemark_base::{RegionId, TableId};
    use tidemark_catalog::FamilyRecord;

    fn family(name: &str, generation: u32) -> PeerFamily {
        PeerFamily {
            name: name.to_owned(),
            id: FamilyId::derive(name, generation),
            generation,
            ttl_micros: None,
            max_versions: None,
            compression: Compression::Lz4,
        }
    }

    fn request(families: Vec<PeerFamily>) -> PrepareTable {
        PrepareTable {
            from: RegionIdentity {
                name: "east".into(),
                region: RegionId(1),
            },
            table: "t".into(),
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
            (plan.create, plan.prepared().families_added),
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
}
