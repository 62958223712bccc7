//! Linearizability, row by row: there is an order of a row's operations that keeps real time and explains every answer.
//!
//! Rows are independent, so the history is cut by row, and each row is searched for itself (Wing and Gong 1993, with
//! Lowe's memory of configurations, 2017; `search`). What a row does is in `model`.
//!
//! ```text
//! a row is searched if   one region makes all its writes: between regions there is no such order, only O8
//!                        its families have no limits: what time and number hide is not the order's business
//! operations             that region's; a scan is a read of each of its rows; a read that failed says nothing
//! unknown outcomes       may take effect at any time after their call, or never
//! ```
//! Rows that cannot be searched are counted with the reason, and the plan says how many must be.

pub mod model;
pub mod search;

use crate::history::{Octets, Operation, Outcome};
use crate::writes::RowRead;
use crate::{Evidence, Report};
use model::{Input, Model};
use search::{Verdict, search};
use std::collections::{BTreeMap, BTreeSet};

const PROPERTY: &str = "linearizable";

/// One row's operations, as the search takes them.
pub struct Problem<'a> {
    /// The table.
    pub table: &'a str,
    /// The row.
    pub row: &'a Octets,
    /// By call time.
    pub inputs: Vec<Input<'a>>,
}

/// Every row that can be searched.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    let mut undecided = 0;
    for problem in problems(evidence, report) {
        let steps_max = evidence.plan.search_steps_max;
        report.count("rows searched for a linear order", 1);
        report.count("operations put into a linear order", problem.inputs.len() as u64);
        let mut model = Model::new(&problem.inputs);
        match search(&mut model, &problem.inputs, steps_max) {
            Verdict::Linearizable => {}
            Verdict::Undecided => undecided += 1,
            Verdict::Violated { stuck, beside } => {
                let (table, row) = (problem.table, problem.row);
                let what = format!(
                    "{table} {row:?}: nothing explains what {stuck} saw, whatever the order of those beside it"
                );
                report.find(PROPERTY, what, [stuck].into_iter().chain(beside));
            }
        }
    }
    if undecided > 0 {
        report.count("rows without a decision", undecided);
    }
    if undecided > evidence.plan.undecided_rows_max {
        let what = format!("{undecided} rows were too long to search: fewer operations a row, or more steps");
        report.find(PROPERTY, what, []);
    }
}

/// Cuts the history by row.
pub fn problems<'a>(evidence: &Evidence<'a>, report: &mut Report) -> Vec<Problem<'a>> {
    let mut reads: BTreeMap<(&str, &Octets), Vec<RowRead<'a>>> = BTreeMap::new();
    for read in evidence.history.row_reads(&evidence.writes) {
        reads.entry((&read.operation.table, read.row)).or_default().push(read);
    }
    let mut problems = Vec::new();
    for (table, name, row) in evidence.writes.rows() {
        let regions: BTreeSet<&str> = row.writes.iter().map(|write| &*write.operation.region).collect();
        let Some(region) = regions.first().filter(|_| regions.len() == 1) else {
            report.count("rows not searched: written in several regions", 1);
            continue;
        };
        let families = evidence.history.table(table).map_or(&[][..], |table| &table.families);
        if families
            .iter()
            .any(|f| f.ttl_micros.is_some() || f.max_versions.is_some())
        {
            report.count("rows not searched: their table has limits", 1);
            continue;
        }
        let mut operations: BTreeMap<u64, &Operation> = BTreeMap::new();
        operations.extend(row.writes.iter().map(|write| (write.operation.id, write.operation)));
        let writes = operations
            .into_values()
            .filter(|operation| operation.outcome != Outcome::Fail)
            .map(Input::write);
        let reads = reads
            .get(&(table, name))
            .into_iter()
            .flatten()
            .filter(|read| read.operation.region == *region);
        let mut inputs: Vec<Input<'a>> = writes.chain(reads.map(Input::read)).collect();
        inputs.sort_by_key(|input| (input.call, input.id));
        if let Err(reason) = model::check(&inputs) {
            report.count(reason, 1);
            continue;
        }
        model::drop_unseen(&mut inputs);
        if !inputs.iter().any(Input::answers) {
            report.count("rows not searched: nothing that was answered depends on an order", 1);
            continue;
        }
        let row = name;
        problems.push(Problem { table, row, inputs });
    }
    problems
}

#[cfg(test)]
mod porcupine_tests;
#[cfg(test)]
mod tests;
