//! [`Table::aggregate`]: numbers in cells, counted and added up where the cells are.

use crate::call::{Call, Safety};
use crate::client::Target;
use crate::error::Result;
use crate::filter::wire_range;
use crate::scan::{Consistency, ScanRequest};
use crate::table::Table;
use bytes::Bytes;
use std::time::Duration;
use tidemark_base::aggregate::{NumberForm, Stats};
use tidemark_proto::v1;

/// What to count and add up.
#[derive(Clone, Debug)]
pub struct AggregateRequest {
    select: ScanRequest,
    form: NumberForm,
    bucket: Option<Duration>,
    by_row: bool,
}

impl AggregateRequest {
    /// The numbers among the cells that this scan would return. Its row limit and direction do not count.
    pub fn of(select: ScanRequest) -> AggregateRequest {
        AggregateRequest {
            select,
            form: NumberForm::default(),
            bucket: None,
            by_row: false,
        }
    }

    /// How values are read as numbers; as floats of eight bytes unless something else is said.
    pub fn numbers(mut self, form: NumberForm) -> AggregateRequest {
        self.form = form;
        self
    }

    /// One group for each stretch of time of that length, at least a microsecond. Buckets begin at multiples of it since 1970.
    pub fn every(mut self, bucket: Duration) -> AggregateRequest {
        self.bucket = Some(bucket);
        self
    }

    /// One group for each row, instead of one for all.
    pub fn by_row(mut self) -> AggregateRequest {
        self.by_row = true;
        self
    }
}

/// What is known of one column, in one bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateGroup {
    /// The row; empty unless grouped by row.
    pub row: Bytes,
    /// The family.
    pub family: String,
    /// The qualifier.
    pub qualifier: Bytes,
    /// Where the bucket begins, in microseconds since 1970; 0 without buckets.
    pub bucket: i64,
    /// Count, sum, least and greatest, mean.
    pub stats: Stats,
}

impl Table {
    /// Groups in the order of row, family, qualifier and bucket; at most 100,000. Each family of a row is read at one moment of its
    /// own.
    /// May take as long as the retry deadline.
    pub async fn aggregate(&self, request: AggregateRequest) -> Result<Vec<AggregateGroup>> {
        let select = request.select;
        if select.ranges.is_empty() {
            return Ok(Vec::new());
        }
        let bucket = request
            .bucket
            .map(|length| i64::try_from(length.as_micros()).unwrap_or(i64::MAX));
        let wire = v1::AggregateRequest {
            table: self.name.to_string(),
            ranges: select.ranges.iter().map(wire_range).collect(),
            filter: Some(select.filter.to_wire()),
            form: match request.form {
                NumberForm::Float => v1::NumberForm::Float,
                NumberForm::Integer => v1::NumberForm::Integer,
                NumberForm::Text => v1::NumberForm::Text,
            } as i32,
            bucket_micros: bucket.map_or(0, |length| length.max(1)),
            by_row: request.by_row,
            now_micros: 0,
            consistency: match select.consistency {
                Consistency::Linearizable => v1::Consistency::Linearizable,
                Consistency::Local => v1::Consistency::Local,
            } as i32,
        };
        let call = Call {
            timeout: self.shared.options.retry.deadline,
            ..self.call(None, Safety::Read)
        };
        let attempt = |target: Target| {
            let request = wire.clone();
            async move { Ok(target.data().aggregate(target.request(request)).await?.into_inner()) }
        };
        let answer = self.shared.call(call, attempt).await?;
        Ok(answer.groups.into_iter().map(group).collect())
    }
}

fn group(group: v1::AggregateGroup) -> AggregateGroup {
    AggregateGroup {
        stats: Stats {
            count: group.count,
            sum: group.sum,
            min: group.min.unwrap_or(f64::INFINITY),
            max: group.max.unwrap_or(f64::NEG_INFINITY),
            others: group.others,
        },
        row: group.row,
        family: group.family,
        qualifier: group.qualifier,
        bucket: group.bucket,
    }
}
