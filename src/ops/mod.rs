//! One file per operation: launch, forward, backward, and under test its f64 oracle and cases. `build.rs`
//! lists the files of this folder; `docs/writing-an-op.md` says how to add one.

pub mod prelude;
#[cfg(test)]
pub mod testing;

include!(concat!(env!("OUT_DIR"), "/ops.rs"));

/// The test cases of every operation, with the name of its file.
#[cfg(test)]
fn all_cases() -> Vec<(&'static str, Vec<testing::Case>)> {
    macro_rules! cases {
        ($($op:ident),*) => { vec![$((stringify!($op), $op::cases())),*] };
    }
    every!(cases)
}
