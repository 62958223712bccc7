//! # tidemark-nemesis: real servers, real faults, and a verdict
//!
//! Two regions of three `tidemarkd` processes in network namespaces, clients that write down what they asked and saw, and
//! faults from a plan that a seed decides. At the end both regions must be equal and every client must have seen what a
//! correct store may show. `./x nemesis --profile P --seed S` runs it.
//!
//! ```text
//! options ─> plan ─> run ─┬─ arena    servers at their places        network, wan, tun · disk, shim, wrong_time
//!                         ├─ stage    tables, links, final states
//!                         ├─ load     clients, history               (client, checkers)
//!                         ├─ fault    does the plan, sees effects    watch: what servers say of themselves
//!                         └─ report   with the checkers' verdict
//! capability, orphans, host: what the machine can do, what is left over, its commands
//! ```
//! Another program in this crate, `tidemark-link` (`./x link`), lets no faults happen: it puts any command of `tidemark` between two
//! regions with a link of a given length.
//!
//! **May not know:** the server's insides. It sees what an application, an operator and the machine see.
//!
//! When you add a fault: it must show that it had an effect, or the run fails; and it heals itself before it returns.

pub mod arena;
pub mod capability;
pub mod disk;
pub mod fault;
pub mod host;
pub mod load;
pub mod network;
pub mod options;
pub mod orphans;
pub mod plan;
pub mod progress;
pub mod report;
pub mod run;
pub mod shim;
pub mod stage;
pub mod tun;
pub mod wan;
pub mod watch;
pub mod wrong_time;
