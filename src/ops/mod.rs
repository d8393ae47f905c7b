//! One file per operation: launch, forward, backward, and under test its f64 oracle and cases.
//! `docs/writing-an-op.md` says how to add one.

pub mod prelude;
#[cfg(test)]
pub mod testing;

pub mod add;
pub mod apgd;
pub mod attack_step;
pub mod augment;
pub mod awp;
pub mod axpby;
pub mod batch_norm;
pub mod cast;
pub mod contrastive;
pub mod conv2d;
pub mod conv2d_folded;
pub mod conv2d_mma;
mod conv2d_step;
pub mod cross_entropy;
pub mod dicar;
pub mod dlr;
pub mod fab;
pub mod feed;
pub mod fill;
pub mod gather;
pub mod global_avg_pool;
pub mod head;
pub mod js;
pub mod kl;
pub mod ledger;
pub mod linear;
pub mod logit_difference;
pub mod margin;
pub mod mart;
pub mod mse;
pub mod normalize;
pub mod predict;
pub mod random_start;
pub mod reduce;
pub mod relu;
pub mod sgd;
pub mod slice;
pub mod split;
pub mod square;
pub mod subset;
pub mod valid;

/// The test cases of every operation, with the name of its file.
#[cfg(test)]
fn all_cases() -> Vec<(&'static str, Vec<testing::Case>)> {
    macro_rules! cases {
        ($($op:ident),* $(,)?) => { vec![$((stringify!($op), $op::cases())),*] };
    }
    cases![
        add,
        apgd,
        attack_step,
        augment,
        awp,
        axpby,
        batch_norm,
        cast,
        contrastive,
        conv2d,
        conv2d_folded,
        conv2d_mma,
        conv2d_step,
        cross_entropy,
        dicar,
        dlr,
        fab,
        feed,
        fill,
        gather,
        global_avg_pool,
        head,
        js,
        kl,
        ledger,
        linear,
        logit_difference,
        margin,
        mart,
        mse,
        normalize,
        predict,
        random_start,
        reduce,
        relu,
        sgd,
        slice,
        split,
        square,
        subset,
        valid,
    ]
}

#[cfg(test)]
#[test]
fn every_file_of_this_folder_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| !["mod", "prelude", "testing"].contains(&name.as_str()))
        .collect();
    files.sort();
    assert_eq!(files, all_cases().into_iter().map(|(name, _)| name).collect::<Vec<_>>());
}
