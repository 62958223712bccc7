//! Bootstrap: the cluster gets its id and says for good which region it is.

use crate::command::{Answer, Founding};
use crate::state::{CatalogState, Identity, Outcome};
use tidemark_base::{Error, ErrorKind, Result};

/// Founds the cluster, or answers with the id of the one that is there. Refused if that is another cluster.
pub(crate) fn apply(state: &mut CatalogState, cluster_id: &str, founding: Option<&Founding>) -> Result<Outcome> {
    let Some(founding) = founding else {
        return Err(Error::invalid(
            "FOUNDING_MISSING",
            "a bootstrap that does not say of which region",
        ));
    };
    if let Some(id) = &state.view.cluster_id {
        let here = state.identity();
        if here != founding.identity {
            return Err(another(&here, &founding.identity));
        }
        return Ok(Outcome::unchanged(Answer::Cluster(id.clone())));
    }
    state.view.cluster_id = Some(cluster_id.to_owned());
    state.cluster = founding.identity.cluster.clone();
    state.view.region_name = founding.identity.region_name.clone();
    state.view.region = founding.identity.region;
    state.seeds = founding.seeds.clone();
    Ok(Outcome::changed(Answer::Cluster(cluster_id.to_owned())))
}

/// What a node is told whose settings name another cluster than its data.
pub(crate) fn another(here: &Identity, wanted: &Identity) -> Error {
    let say = format!(
        "the catalog belongs to cluster {:?}, region {:?} (number {}), but the settings say cluster {:?}, region {:?} \
         (number {})",
        here.cluster, here.region_name, here.region.0, wanted.cluster, wanted.region_name, wanted.region.0
    );
    Error::new(ErrorKind::FailedPrecondition, "WRONG_CLUSTER", say)
        .object(format!("cluster {}", here.cluster))
        .action("correct cluster and region in the settings, or start with an empty data directory of its own")
}
