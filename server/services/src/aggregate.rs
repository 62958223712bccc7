//! Aggregates: each tablet's leader gathers the groups of its part, and they are added up here.

use crate::call::Call;
use crate::context::{ServiceContext, TableView};
use crate::convert::{filter, row_ranges, wire_range};
use crate::errors::Failure;
use crate::forward::{Answerer, Forwarding, at_leader, onward};
use crate::read::{FamilyNames, answerer};
use futures::stream::{self, StreamExt};
use tidemark_base::aggregate::{AggregateSpec, Aggregates, NumberForm, Stats};
use tidemark_base::{Error, ReadSpec, Result, RowRange, TableSchema, limits};
use tidemark_catalog::TabletRecord;
use tidemark_proto::v1;
use tidemark_tablet::Tablet;

/// Parts at one time: each keeps a thread busy.
const PARTS_AT_ONCE: usize = 4;
/// An answer, in bytes: one message.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// What a group takes beside its names.
const GROUP_BYTES: usize = 64;

/// Answers one Aggregate.
pub async fn aggregate(
    context: &ServiceContext,
    call: &Call,
    mut request: v1::AggregateRequest,
) -> std::result::Result<v1::AggregateResponse, Failure> {
    let turn = context.admission.scan()?;
    let who = answerer(request.consistency)?;
    let wanted = wanted(&request)?;
    let mut spec = ReadSpec {
        ranges: row_ranges(&request.ranges)?,
        ..ReadSpec::default()
    };
    spec.normalize()?;
    if spec.ranges.is_empty() {
        spec.ranges.push(RowRange::all());
    }
    // One moment for all tablets, whoever reads them.
    if request.now_micros == 0 {
        request.now_micros = context.clock.now_micros();
    }
    let prepare = |table: &TableView| -> std::result::Result<_, Failure> {
        let filter = filter(request.filter.as_ref(), &table.schema, &table.name)?;
        let part = |tablet: &TabletRecord| {
            let ranges = spec.ranges.iter().map(|range| range.intersect(&tablet.range));
            let ranges: Vec<RowRange> = ranges.filter(|range| !range.is_empty()).collect();
            (!ranges.is_empty()).then(|| (tablet.clone(), ranges))
        };
        let parts: Vec<_> = table.view.tablets_of(table.id).filter_map(part).collect();
        Ok((table.clone(), filter, parts))
    };
    let (table, filter, parts) = context.with_table(&request.table, prepare).await?;
    let asked = parts.into_iter().map(|(tablet, ranges)| {
        let spec = ReadSpec {
            ranges,
            filter: filter.clone(),
            ..ReadSpec::default()
        };
        let part = Part {
            context,
            call,
            table: &table,
            request: &request,
            wanted,
            who,
        };
        part.gather(tablet, spec)
    });
    let mut answers = stream::iter(asked).buffer_unordered(PARTS_AT_ONCE);
    let mut all = Aggregates::new(wanted);
    while let Some(answer) = answers.next().await {
        unite(&mut all, &answer?, &table.schema)?;
    }
    drop(turn);
    Ok(wire(&mut all, &FamilyNames::of(&table.schema))?)
}

fn wanted(request: &v1::AggregateRequest) -> Result<AggregateSpec> {
    let form = match v1::NumberForm::try_from(request.form) {
        Ok(v1::NumberForm::Float) => NumberForm::Float,
        Ok(v1::NumberForm::Integer) => NumberForm::Integer,
        Ok(v1::NumberForm::Text) => NumberForm::Text,
        Err(_) => {
            let message = format!("number form {} is not known", request.form);
            return Err(Error::invalid("NUMBER_FORM_UNKNOWN", message).action("use float, integer or text"));
        }
    };
    if request.bucket_micros < 0 {
        return Err(Error::invalid("BUCKET_INVALID", "the length of a bucket is negative")
            .action("give microseconds, or 0 for one bucket"));
    }
    Ok(AggregateSpec {
        form,
        bucket_micros: Some(request.bucket_micros).filter(|length| *length > 0),
        by_row: request.by_row,
    })
}

struct Part<'a> {
    context: &'a ServiceContext,
    call: &'a Call,
    table: &'a TableView,
    request: &'a v1::AggregateRequest,
    wanted: AggregateSpec,
    who: Answerer,
}

impl Part<'_> {
    async fn gather(self, tablet: TabletRecord, spec: ReadSpec) -> std::result::Result<v1::AggregateResponse, Failure> {
        let (who, now_micros, wanted) = (self.who, self.request.now_micros, self.wanted);
        let remote_request = v1::AggregateRequest {
            ranges: spec.ranges.iter().map(wire_range).collect(),
            ..self.request.clone()
        };
        let local = |replica: Tablet| {
            let spec = spec.clone();
            async move {
                if who == Answerer::Leader {
                    replica.read_barrier().await?;
                }
                let schema = replica.schema();
                let mut groups = replica.aggregate(spec, now_micros, wanted).await?;
                wire(
                    &mut groups,
                    &FamilyNames::of(schema.as_deref().unwrap_or(&self.table.schema)),
                )
            }
        };
        let remote = |mut client: v1::data_client::DataClient<_>, left| {
            let request = remote_request.clone();
            async move { Ok(client.aggregate(onward(request, left)).await?.into_inner()) }
        };
        let how = Forwarding::read(who);
        let (response, _) = at_leader(self.context, self.call, &tablet, how, local, remote).await?;
        Ok(response)
    }
}

/// Adds the groups of one tablet. Those of a family that was dropped meanwhile are left out, as a read would.
fn unite(all: &mut Aggregates, part: &v1::AggregateResponse, schema: &TableSchema) -> Result<()> {
    for group in &part.groups {
        let Some(family) = schema.family_named(&group.family) else {
            continue;
        };
        let stats = Stats {
            count: group.count,
            sum: group.sum,
            min: group.min.unwrap_or(f64::INFINITY),
            max: group.max.unwrap_or(f64::NEG_INFINITY),
            others: group.others,
        };
        all.add_stats(&group.row, family.id, &group.qualifier, group.bucket, &stats)?;
    }
    Ok(())
}

fn too_large() -> Error {
    let message = format!("the groups together are over {ANSWER_BYTES_MAX} bytes");
    Error::invalid("ANSWER_TOO_LARGE", message).action("ask for fewer rows, longer buckets, or no grouping by row")
}

fn wire(all: &mut Aggregates, names: &FamilyNames) -> Result<v1::AggregateResponse> {
    let mut bytes = 0;
    let mut groups = Vec::new();
    for (key, bucket, stats) in all.groups() {
        let Some(family) = names.get(key.family) else { continue };
        bytes += key.row.len() + key.qualifier.len() + family.len() + GROUP_BYTES;
        if bytes > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        let some = |number: f64| (stats.count > 0).then_some(number);
        groups.push(v1::AggregateGroup {
            row: key.row.clone(),
            family: family.to_owned(),
            qualifier: key.qualifier.clone(),
            bucket,
            count: stats.count,
            sum: stats.sum,
            min: some(stats.min),
            max: some(stats.max),
            others: stats.others,
        });
    }
    debug_assert!(
        groups.len() <= limits::AGGREGATE_GROUPS_MAX,
        "bounded while they are gathered"
    );
    Ok(v1::AggregateResponse { groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::{FamilySettings, RegionId};

    #[test]
    fn parts_of_tablets_are_added_up_as_if_they_were_one() {
        let mut schema = TableSchema::new(RegionId(1));
        schema.families.push(FamilySettings::new("m", 0));
        let (family, names) = (schema.families[0].id, FamilyNames::of(&schema));
        let wanted = AggregateSpec {
            bucket_micros: Some(10),
            ..AggregateSpec::default()
        };
        let mut whole = Aggregates::new(wanted);
        let mut united = Aggregates::new(wanted);
        for part in 0..3i64 {
            let mut tablet = Aggregates::new(wanted);
            for version in 0..30 {
                let value = match version % 7 {
                    0 => b"none".to_vec(),
                    _ => ((part * 100 + version) as f64).to_be_bytes().to_vec(),
                };
                for all in [&mut tablet, &mut whole] {
                    all.add(b"r", family, b"q", version, &value).unwrap();
                }
            }
            unite(&mut united, &wire(&mut tablet, &names).unwrap(), &schema).unwrap();
        }
        let (whole, united) = (wire(&mut whole, &names).unwrap(), wire(&mut united, &names).unwrap());
        assert_eq!(whole, united);
        assert_eq!(whole.groups.len(), 3);
        schema.families.clear();
        let mut none = Aggregates::new(wanted);
        unite(&mut none, &whole, &schema).unwrap();
        assert_eq!(none.groups().count(), 0, "of a family that is gone nothing is said");
    }

    #[test]
    fn bad_requests_are_refused() {
        let reason = |request: v1::AggregateRequest| wanted(&request).unwrap_err().reason().to_owned();
        let request = v1::AggregateRequest {
            form: 9,
            ..v1::AggregateRequest::default()
        };
        assert_eq!(reason(request), "NUMBER_FORM_UNKNOWN");
        let request = v1::AggregateRequest {
            bucket_micros: -1,
            ..v1::AggregateRequest::default()
        };
        assert_eq!(reason(request), "BUCKET_INVALID");
    }
}
