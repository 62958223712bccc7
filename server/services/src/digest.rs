//! Digests: the sum over the tablets of the ranges. Order-free, so the sum does not depend on how a region splits a table.

use crate::call::Call;
use crate::context::{ServiceContext, TableView};
use crate::convert::{row_ranges, wire_range};
use crate::errors::Failure;
use crate::forward::{Answerer, Forwarding, at_leader, onward};
use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_base::{Error, ReadSpec, RowRange};
use tidemark_catalog::TabletRecord;
use tidemark_proto::v1;
use tidemark_tablet::Tablet;

/// Parts at one time: each reads a whole tablet.
const PARTS_AT_ONCE: usize = 4;

/// A sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    cells: u64,
    content: u128,
    stamps: u128,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.rows += other.rows;
        self.cells += other.cells;
        self.content = self.content.wrapping_add(other.content);
        self.stamps = self.stamps.wrapping_add(other.stamps);
    }

    fn wire(self) -> v1::DigestResponse {
        v1::DigestResponse {
            rows: self.rows,
            cells: self.cells,
            content_hash: self.content.to_le_bytes().to_vec().into(),
            stamps_hash: self.stamps.to_le_bytes().to_vec().into(),
        }
    }

    fn from_wire(response: &v1::DigestResponse) -> tidemark_base::Result<Sum> {
        let hash = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(u128::from_le_bytes);
        match (hash(&response.content_hash), hash(&response.stamps_hash)) {
            (Ok(content), Ok(stamps)) => Ok(Sum {
                rows: response.rows,
                cells: response.cells,
                content,
                stamps,
            }),
            _ => Err(Error::internal("another node's digest does not have 16 bytes")),
        }
    }
}

/// Answers one Digest.
pub async fn digest(
    context: &ServiceContext,
    call: &Call,
    request: v1::DigestRequest,
) -> Result<v1::DigestResponse, Failure> {
    let turn = context.admission.scan()?;
    let mut spec = ReadSpec {
        ranges: row_ranges(&request.ranges)?,
        ..ReadSpec::default()
    };
    spec.normalize()?;
    if spec.ranges.is_empty() {
        spec.ranges.push(RowRange::all());
    }
    // One moment for all tablets, whoever reads them.
    let now_micros = match request.now_micros {
        0 => context.clock.now_micros(),
        given => given,
    };
    let prepare = |table: &TableView| -> Result<_, Failure> {
        let parts = |tablet: &TabletRecord| {
            let cut = spec.ranges.iter().map(|range| range.intersect(&tablet.range));
            let cut = cut.filter(|range| !range.is_empty());
            cut.map(|range| (tablet.clone(), range)).collect::<Vec<_>>()
        };
        let parts: Vec<_> = table.view.tablets_of(table.id).flat_map(parts).collect();
        Ok((table.name.clone(), parts))
    };
    let (table, parts) = context.with_table(&request.table, prepare).await?;
    let each = parts
        .into_iter()
        .map(|(tablet, range)| part(context, call, &table, tablet, range, now_micros));
    let sums: Vec<Sum> = stream::iter(each).buffer_unordered(PARTS_AT_ONCE).try_collect().await?;
    drop(turn);
    let mut total = Sum::default();
    sums.into_iter().for_each(|sum| total.add(sum));
    Ok(total.wire())
}

async fn part(
    context: &ServiceContext,
    call: &Call,
    table: &str,
    tablet: TabletRecord,
    range: RowRange,
    now_micros: i64,
) -> Result<Sum, Failure> {
    let local = |replica: Tablet| {
        let range = range.clone();
        async move {
            replica.read_barrier().await?;
            let digest = replica.digest(range, now_micros).await?;
            let sum = Sum {
                rows: digest.rows,
                cells: digest.cells,
                content: digest.content_hash,
                stamps: digest.stamps_hash,
            };
            Ok(sum.wire())
        }
    };
    let remote = |mut client: v1::data_client::DataClient<_>, left| {
        let request = v1::DigestRequest {
            table: table.to_owned(),
            ranges: vec![wire_range(&range)],
            now_micros,
        };
        async move { Ok(client.digest(onward(request, left)).await?.into_inner()) }
    };
    let how = Forwarding::read(Answerer::Leader);
    let (response, _) = at_leader(context, call, &tablet, how, local, remote).await?;
    Ok(Sum::from_wire(&response)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_wrap_and_travel() {
        let mut sum = Sum {
            rows: 1,
            cells: 2,
            content: u128::MAX,
            stamps: 5,
        };
        sum.add(Sum {
            rows: 1,
            cells: 1,
            content: 3,
            stamps: 1,
        });
        assert_eq!((sum.rows, sum.cells, sum.content, sum.stamps), (2, 3, 2, 6));
        assert_eq!(Sum::from_wire(&sum.wire()).unwrap(), sum);
        assert!(Sum::from_wire(&v1::DigestResponse::default()).is_err());
    }
}
