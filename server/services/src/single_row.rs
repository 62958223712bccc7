//! Check-and-mutate and read-modify-write: one row, evaluated by its tablet in the order of its log.
//!
//! Both carry an idempotency token. Where the client gives none it is made here, before the request is passed on, so that
//! a repeat over another node is applied once.

use crate::call::Call;
use crate::context::{ServiceContext, TableView};
use crate::convert::{at_most, filter, mutations, rmw_rule, row_key, token};
use crate::errors::Failure;
use crate::forward::{Answerer, Forwarding, Repeat, at_leader, onward};
use crate::read::FamilyNames;
use crate::split::RowMap;
use prost::Message;
use tidemark_base::{Error, TabletId, limits};
use tidemark_catalog::TabletRecord;
use tidemark_proto::v1;
use tidemark_tablet::{CheckAndMutate, ReadModifyWrite, Tablet};

/// A token makes a repeat harmless, though not the outcome of the tries before it certain.
const HOW: Forwarding = Forwarding {
    repeat: Repeat::Once,
    answerer: Answerer::Leader,
    onward: true,
};

/// Answers one CheckAndMutate.
pub async fn check_and_mutate(
    context: &ServiceContext,
    call: &Call,
    mut request: v1::CheckAndMutateRequest,
) -> Result<v1::CheckAndMutateResponse, Failure> {
    let _bytes = context.admission.write(request.encoded_len())?;
    row_key(&request.row)?;
    let token = token(&request.token)?.unwrap_or_else(|| make_token(context));
    request.token = token.to_vec().into();
    if request.on_match.is_empty() && request.on_mismatch.is_empty() {
        let error = Error::invalid("MUTATIONS_EMPTY", "neither on_match nor on_mismatch has a mutation");
        return Err(error.action("use Read to test a row without changing it").into());
    }
    let prepare = |table: &TableView| -> Result<_, Failure> {
        let (name, schema) = (&table.name, &table.schema);
        let operation = CheckAndMutate {
            row: request.row.clone(),
            predicate: filter(request.predicate.as_ref(), schema, name)?,
            on_match: mutations(&request.row, &request.on_match, schema, name)?,
            on_mismatch: mutations(&request.row, &request.on_mismatch, schema, name)?,
            token,
            epoch: request.epoch,
        };
        Ok((table.clone(), operation))
    };
    let (table, operation) = context.with_table(&request.table, prepare).await?;
    let local = |tablet: Tablet| {
        let operation = operation.clone();
        async move {
            context.admission.check_disk()?;
            tablet.check_and_mutate(operation).await
        }
    };
    let remote = |mut client: v1::data_client::DataClient<_>, left| {
        let request = request.clone();
        async move {
            Ok(client
                .check_and_mutate(onward(request, left))
                .await?
                .into_inner()
                .matched)
        }
    };
    let record = tablet_of(&table, &request.row)?;
    let (matched, redirect) = at_leader(context, call, record, HOW, local, remote).await?;
    Ok(v1::CheckAndMutateResponse { matched, redirect })
}

/// Answers one ReadModifyWrite.
pub async fn read_modify_write(
    context: &ServiceContext,
    call: &Call,
    mut request: v1::ReadModifyWriteRequest,
) -> Result<v1::ReadModifyWriteResponse, Failure> {
    let _bytes = context.admission.write(request.encoded_len())?;
    row_key(&request.row)?;
    let token = token(&request.token)?.unwrap_or_else(|| make_token(context));
    request.token = token.to_vec().into();
    at_most(
        "RULES_TOO_MANY",
        "list of rules",
        request.rules.len(),
        limits::ROW_MUTATIONS_MAX,
    )?;
    if request.rules.is_empty() {
        return Err(Error::invalid("RULES_EMPTY", "a read-modify-write has at least one rule").into());
    }
    let prepare = |table: &TableView| -> Result<_, Failure> {
        let rules = request
            .rules
            .iter()
            .map(|rule| rmw_rule(rule, &table.schema, &table.name));
        let operation = ReadModifyWrite {
            row: request.row.clone(),
            rules: rules.collect::<tidemark_base::Result<_>>()?,
            token,
            epoch: request.epoch,
        };
        Ok((table.clone(), operation))
    };
    let (table, operation) = context.with_table(&request.table, prepare).await?;
    let names = FamilyNames::of(&table.schema);
    let local = |tablet: Tablet| {
        let operation = operation.clone();
        let names = &names;
        async move {
            context.admission.check_disk()?;
            let written = tablet.read_modify_write(operation).await?;
            let cells = written.into_iter().map(|cell| v1::Cell {
                family: names.get(cell.family).unwrap_or_default().to_owned(),
                qualifier: cell.qualifier,
                version: cell.version,
                value: cell.value,
            });
            Ok(cells.collect::<Vec<_>>())
        }
    };
    let remote = |mut client: v1::data_client::DataClient<_>, left| {
        let request = request.clone();
        async move {
            let response = client.read_modify_write(onward(request, left)).await?.into_inner();
            Ok(response.row.map(|row| row.cells).unwrap_or_default())
        }
    };
    let record = tablet_of(&table, &request.row)?;
    let (cells, redirect) = at_leader(context, call, record, HOW, local, remote).await?;
    let key = request.row.clone();
    Ok(v1::ReadModifyWriteResponse {
        row: Some(v1::Row { key, cells }),
        redirect,
    })
}

fn make_token(context: &ServiceContext) -> [u8; limits::TOKEN_BYTES] {
    let mut token = [0; limits::TOKEN_BYTES];
    context.entropy.fill(&mut token);
    token
}

fn tablet_of<'a>(table: &'a TableView, row: &[u8]) -> Result<&'a TabletRecord, Failure> {
    let id: Option<TabletId> = table.route(row).map(|(id, _)| id);
    let record = id.and_then(|id| table.view.tablets.get(&id));
    record.ok_or_else(|| Error::internal("no tablet of the table holds this row: the catalog has a hole").into())
}
