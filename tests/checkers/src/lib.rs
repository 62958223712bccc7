//! # tidemark-checkers: what a run proves, and whether it proved anything
//!
//! Simulation and nemesis write a history (JSON lines, one clock), read each region's final state, and keep the logs. This
//! crate judges them: one file a property, named by its number.
//!
//! ```text
//! history        the records of a run and their writer                           docs/formats/history.md
//! read           lines in, records out; never panics, never skips silently
//! plan, report   what the run had to do; what was found, for people and machines
//! writes         who wrote what, and which of two writes certainly has the greater stamp: shared by the checkers
//! checks/        linearizable, stamps (O4), acknowledged (O6), converged (O5), watermark (O7), causality (O8), atomic (O12),
//!                crossed (O13), liveness (O14), logs, conflicts, vacuity
//! ```
//! Every checker is sound: it speaks only of what no correct system can show, whatever the unknown outcomes did. What it
//! looked at is counted, and [`checks::vacuity`] fails a run whose checkers had nothing to look at.
//!
//! When you add a checker: a correct history passes, several minimally wrong ones are caught, in its tests.
//!
//! **May not know:** how the run was made: no network, no processes, no clock, nothing of the server.

pub mod checks;
pub mod history;
pub mod plan;
pub mod read;
pub mod report;
pub mod writes;

pub use history::{FinalState, NodeLog, Recorder};
pub use plan::Plan;
pub use read::History;
pub use report::{Finding, Report};

use writes::Writes;

/// What the checkers look at.
pub struct Evidence<'a> {
    /// What clients and the rig wrote down.
    pub history: &'a History,
    /// What each region shows after the run.
    pub finals: &'a [FinalState],
    /// What the nodes logged.
    pub logs: &'a [NodeLog],
    /// What the run had to do.
    pub plan: &'a Plan,
    /// The history's writes by row.
    pub writes: Writes<'a>,
}

/// Judges a run by every property.
pub fn check(history: &History, finals: &[FinalState], logs: &[NodeLog], plan: &Plan) -> Report {
    let mut report = Report::new(history.run());
    let evidence = Evidence {
        history,
        finals,
        logs,
        plan,
        writes: Writes::of(history, plan.clock_margin),
    };
    checks::readable::check(&evidence, &mut report);
    checks::linearizable::check(&evidence, &mut report);
    checks::acknowledged::check(&evidence, &mut report);
    checks::converged::check(&evidence, &mut report);
    checks::watermark::check(&evidence, &mut report);
    checks::stamps::check(&evidence, &mut report);
    checks::causality::check(&evidence, &mut report);
    checks::atomic::check(&evidence, &mut report);
    checks::crossed::check(&evidence, &mut report);
    checks::liveness::check(&evidence, &mut report);
    checks::logs::check(&evidence, &mut report);
    checks::conflicts::check(&evidence, &mut report);
    checks::vacuity::check(&evidence, &mut report);
    report
}
