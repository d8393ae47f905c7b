//! Evaluation of saved weights: clean accuracy, accuracy under single attacks, and the protocol of
//! AutoAttack.

pub mod accuracy;
pub mod corruptions;
pub mod craft;
mod evaluate;
mod identity;
pub mod outcome;
mod packing;
pub mod page;
pub mod plan;
pub mod post_check;
mod pre_check;
pub mod protocol;
pub mod record;
mod report;
mod reporter;
mod request;
pub mod state;
pub mod target;

pub use evaluate::run;
pub use report::{Report, write_result};
pub use request::{EvalRequest, Extras};
