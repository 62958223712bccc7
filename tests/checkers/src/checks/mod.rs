//! The checkers, one property each.

pub mod acknowledged;
pub mod atomic;
pub mod causality;
pub mod conflicts;
pub mod converged;
pub mod crossed;
pub mod linearizable;
pub mod liveness;
pub mod logs;
pub mod readable;
pub mod stamps;
pub mod vacuity;
pub mod watermark;
