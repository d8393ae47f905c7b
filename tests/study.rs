//! Studies from outside: figures of a trained network, and comparisons.

mod common;

use common::{error, printed};
use saddle::config::Select;
use saddle::device::testing::device_name;
use saddle::run::observer::Silent;
use saddle::study::compare;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// One epoch of the default job in `folder/run`.
fn one_epoch(folder: &Path) {
    printed(
        folder,
        "train --device DEVICE --epochs 1 --attack-steps 2 --batch 256 --select-steps 1 --quiet --out run",
    );
}

/// The columns of a table with headings, by heading.
fn columns(file: &Path) -> Vec<(String, Vec<f64>)> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    let mut columns: Vec<(String, Vec<f64>)> =
        lines.next().unwrap().split(',').map(|name| (name.into(), vec![])).collect();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), columns.len(), "{line}");
        columns
            .iter_mut()
            .zip(cells)
            .for_each(|(column, cell)| column.1.push(cell.parse().unwrap_or(f64::NAN)));
    }
    columns
}

/// Checks that a file is well-formed XML, as far as tags go, and contains `parts`.
fn check_svg(file: &Path, parts: &[&str]) {
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg ") || svg.starts_with("<?xml "), "{}", &svg[..40]);
    let mut open = vec![];
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').unwrap();
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name)),
            (false, false) => open.push(name),
            (false, true) => {}
        }
        assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{tag}");
    }
    assert!(open.is_empty() && svg.matches("<text").count() > 10, "{}: {open:?}", file.display());
    for part in parts {
        assert!(svg.contains(part), "{}: no {part}", file.display());
    }
}

/// What rounding to bf16 may change on the digits: bounds with room above what every checkpoint of the
/// default job shows (sign 0.991, cosine 0.9987 after the first stage, robust accuracies within two
/// images).
#[test]
fn precisions_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    printed(
        here,
        "train --device DEVICE --epochs 4 --attack-steps 5 --batch 256 --select-steps 1 --checkpoint-every 2 \
         --quiet --precision bf16 --out run",
    );
    let run: Value = serde_json::from_slice(&std::fs::read(here.join("run/run.json")).unwrap()).unwrap();
    assert_eq!(run["config"]["precision"], "bf16");
    let report: Value =
        serde_json::from_str(&printed(here, "precision run --device DEVICE --quiet --json")).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let checkpoints: Vec<&str> = rows.iter().map(|row| row["checkpoint"].as_str().unwrap()).collect();
    let expected: Vec<&str> =
        ["epoch-2", "epoch-4", "best", "last"].iter().flat_map(|name| [*name; 3]).collect();
    assert_eq!(checkpoints, expected);
    for rows in rows.chunks(3) {
        let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
        for (row, (precision, sign, cosine)) in
            rows.iter().zip([("f32", 1.0, 1.0 - 1e-12), ("tf32", 0.995, 0.9995), ("bf16", 0.97, 0.995)])
        {
            assert_eq!(row["precision"], precision);
            let gradients = row["gradients"].as_array().unwrap();
            assert_eq!(gradients[0]["place"], "image");
            assert_eq!(gradients.len(), 4);
            for gradient in gradients {
                assert!(number(gradient, "sign") >= sign && number(gradient, "cosine") >= cosine, "{row}");
            }
            let loss = number(row, "pgd_loss") / number(&rows[0], "pgd_loss");
            assert!((loss - 1.0).abs() < 0.01, "{row}");
            // Of 360 images.
            let images = (number(row, "robust_acc") - number(&rows[0], "robust_acc")) * 3.6;
            assert!(images.abs() < 4.5, "{row}");
        }
        // Rounding does something.
        assert!(number(&rows[2]["gradients"][0], "cosine") < 0.9999999, "{}", rows[2]);
    }
    let table = printed(here, "precision run --device DEVICE --quiet --n 20");
    assert!(table.starts_with("checkpoint ") && table.contains("PGD-5, linf, eps 0.1"), "{table}");
    for (line, message) in [
        ("precision nothing", "nothing: holds no run (there is no run.json in it)"),
        ("precision run --n 0", "n = 0: must be 1 or more"),
    ] {
        let found = error(here, line);
        assert!(found.contains(message), "{found}");
    }
}

/// An evaluation takes float32 unless it is asked for another precision, and says which it took.
#[test]
fn the_precision_of_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    one_epoch(here);
    let result = |flags: &str| {
        printed(
            here,
            &format!("eval --weights run --checkpoint last --device DEVICE --quiet --attack fgsm {flags}"),
        );
        let text = std::fs::read(here.join("e.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    let [plain, bf16] = ["--out e.json", "--out e.json --precision bf16"].map(result);
    assert_eq!((&plain["precision"], &bf16["precision"]), (&"f32".into(), &"bf16".into()));
    let loss = |report: &Value| report["results"][0]["accuracy"].as_f64().unwrap();
    assert!((loss(&plain) - loss(&bf16)).abs() < 2.0, "{plain} {bf16}");
}

#[test]
fn figures_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    one_epoch(here);
    let out = printed(here, "analyse run --device DEVICE --quiet");
    assert!(
        out.starts_with("figure ")
            && out.contains("written to run/analysis: perception.csv, perception.svg, "),
        "{out}"
    );
    let analysis = here.join("run/analysis");
    for (name, x, y) in [
        ("perception", "t: part of the perturbation", "logit MSE"),
        ("margins", "margin: z_y", "images"),
        ("layers", "layer", "1-nn accuracy (%)"),
    ] {
        check_svg(&analysis.join(format!("{name}.svg")), &[x, y]);
        assert!(out.contains(&format!("\n{name} ")), "{out}");
    }
    let record: Value =
        serde_json::from_slice(&std::fs::read(analysis.join("analysis.json")).unwrap()).unwrap();
    let summary: Value =
        serde_json::from_slice(&std::fs::read(here.join("run/summary.json")).unwrap()).unwrap();
    let fact = |figure: &str, start: &str| {
        let facts = record["figures"][figure].as_object().unwrap();
        facts
            .iter()
            .find(|(what, _)| what.starts_with(start))
            .unwrap_or_else(|| panic!("{start} is not in {record}"))
            .1
            .as_f64()
            .unwrap()
    };
    let perception = columns(&analysis.join("perception.csv"));
    assert_eq!((perception[0].1.len(), perception[1].1[0], perception[0].1[10]), (11, 0.0, 1.0));
    assert_eq!(perception[1].1[10], fact("perception", "logit MSE of x and x', all (360 images)"));
    assert!(perception[1].1.windows(2).all(|pair| pair[0] < pair[1]), "{perception:?}");
    let margins = columns(&analysis.join("margins.csv"));
    let total = |column: usize| margins[column].1.iter().sum::<f64>();
    assert_eq!([2, 3, 4].map(total), [360.0; 3]);
    // The same attack on the same checkpoint as in the run's own results.
    for (start, accuracy) in
        [("margin not above 0 at x (%)", "clean_acc"), ("margin not above 0 at x' (%)", "pgd20_acc")]
    {
        let right = 100.0 - fact("margins", start);
        assert!((right - summary[accuracy].as_f64().unwrap()).abs() < 1e-9, "{start}: {right} {summary}");
    }
    let layers = columns(&analysis.join("layers.csv"));
    assert_eq!(layers[1].1.len(), 4);
    assert!(
        layers[1].1[3] > layers[2].1[3] && layers[1].1.iter().all(|a| (20.0..=100.0).contains(a)),
        "{layers:?}"
    );
    assert_eq!(record["gallery images"], 1000);

    let out = printed(here, "analyse run --device DEVICE --quiet --figures margins --n 7 --out here");
    assert!(out.ends_with("written to here: margins.csv, margins.svg, analysis.json\n"), "{out}");
    assert_eq!(columns(&here.join("here/margins.csv"))[2].1.iter().sum::<f64>(), 7.0);
    assert_eq!(std::fs::read_dir(here.join("here")).unwrap().count(), 3);
    // A second time the same bytes.
    let before = std::fs::read(here.join("here/margins.csv")).unwrap();
    printed(here, "analyse run --device DEVICE --quiet --figures margins --n 7 --out here");
    assert_eq!(std::fs::read(here.join("here/margins.csv")).unwrap(), before);

    for (line, message) in [
        ("analyse nothing", "nothing: holds no run (there is no run.json in it)"),
        ("analyse here", "here: holds no run (there is no run.json in it)"),
        (
            "analyse run --figures margin --out x",
            "unknown figure 'margin' (did you mean 'margins'?); known: perception, ",
        ),
        (
            "analyse run --figures= --out x",
            "figures = '': a name is needed; 'saddle help analyse' lists them",
        ),
        (
            "analyse run --figures sweep --out x",
            "figures = sweep: trains five networks; ask for it with --sweep",
        ),
        ("analyse run --n 0 --out x", "n = 0: must be 1 or more"),
        ("analyse run --gallery 0 --out x", "gallery = 0: must be 1 or more"),
        ("analyse run --sweep --sweep-epochs 0 --out x", "epochs = 0: must be 1 or more"),
    ] {
        let found = error(here, line);
        assert!(found.starts_with(message), "{found}");
    }
    std::fs::remove_dir_all(here.join("run/checkpoints")).unwrap();
    assert!(
        error(here, "analyse run --out x")
            .starts_with("run: holds no checkpoints/best.safetensors or last.safetensors")
    );
    assert!(!here.join("x").exists(), "a failed command leaves no files");
}

#[test]
fn the_sweep_trains_five_networks_once() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    one_epoch(here);
    let line = "analyse run --device DEVICE --quiet --figures margins --n 20 --sweep";
    let out = printed(here, line);
    assert!(out.contains("\nsweep ") && out.contains("sweep.csv, sweep.svg"), "{out}");
    let analysis = here.join("run/analysis");
    let sweep = columns(&analysis.join("sweep.csv"));
    assert_eq!(
        (sweep[0].1.as_slice(), sweep[1].1.as_slice()),
        (&[1.0, 0.1, 0.0, 1.0, 1.0][..], &[1.0, 1.0, 1.0, 0.1, 0.0][..])
    );
    assert!(
        sweep[2].1.iter().chain(&sweep[3].1).all(|accuracy| (0.0..=100.0).contains(accuracy)),
        "{sweep:?}"
    );
    check_svg(
        &analysis.join("sweep.svg"),
        &["boundary samples | others", "accuracy (%)", "PGD-20", "eps/10 | eps"],
    );
    let record: Value =
        serde_json::from_slice(&std::fs::read(analysis.join("analysis.json")).unwrap()).unwrap();
    let figures = record["figures"].as_object().unwrap();
    assert_eq!(figures.keys().collect::<Vec<_>>(), ["margins", "sweep"]);
    assert_eq!(figures["sweep"]["PGD-20 accuracy, boundary eps/10, others eps (%)"], sweep[3].1[1]);
    let runs = analysis.join("sweep/runs");
    assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 5);
    let written =
        |name: &str| std::fs::metadata(runs.join(name).join("run.json")).unwrap().modified().unwrap();
    let before = ["boundary-at-1-1-seed0", "boundary-at-1-0-seed0"].map(written);
    assert_eq!(printed(here, line), out);
    assert_eq!(["boundary-at-1-1-seed0", "boundary-at-1-0-seed0"].map(written), before);
    let other = error(here, &format!("{line} --sweep-epochs 2"));
    assert!(other.contains("holds a run with epochs = 1, not 2; choose another --out"), "{other}");
}

#[test]
fn a_comparison_takes_any_attack_and_continues_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let line = "compare --device DEVICE --methods pgd-at,standard --seeds 0,1 --quiet --out c \
                --attack apgd-ce,autoattack:fgsm --set epochs=1 --set attack_steps=1 --set batch=256 \
                --set select_steps=1";
    let first = printed(folder.path(), line);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("c").join(name)).unwrap();
    let comparison: Value = serde_json::from_str(&read("compare.json")).unwrap();
    for row in comparison["rows"].as_array().unwrap() {
        let mean = |figure: &str| row["figures"][figure]["mean"].as_f64().unwrap();
        let (clean, robust) = (mean("clean"), mean("autoattack:fgsm"));
        assert!(mean("apgd-ce") <= clean && robust <= clean, "{row}");
        assert!((mean("Mean") - (clean + robust) / 2.0).abs() < 1e-9, "Mean is of the last attack: {row}");
    }
    // Finished runs are read, not repeated.
    let runs = |what: &str| {
        std::fs::metadata(folder.path().join("c/runs/digits-seed1").join(what)).unwrap().modified().unwrap()
    };
    let before = (runs("summary.json"), runs("eval-apgd-ce.json"));
    assert_eq!(printed(folder.path(), line), first);
    assert_eq!((runs("summary.json"), runs("eval-apgd-ce.json")), before);
    let other = error(folder.path(), &line.replace("epochs=1", "epochs=2"));
    assert!(other.contains("holds a run with epochs = 1, not 2; choose another --out"), "{other}");
    assert!(error(folder.path(), "compare --attack apgd").starts_with("unknown attack 'apgd'"));

    // A missing evaluation is repeated; a selection of checkpoints by test images is noted.
    std::fs::remove_file(folder.path().join("c/runs/digits-seed1/eval-apgd-ce.json")).unwrap();
    let mut entries = compare::entries("digits", &["pgd-at".into()], None, &[]).unwrap();
    let quick = [("epochs", "1"), ("attack_steps", "1"), ("batch", "256"), ("select_steps", "1")];
    entries[0].config.apply(&quick).unwrap();
    let request = compare::CompareRequest {
        entries,
        seeds: vec![0, 1],
        attacks: vec!["apgd-ce".into(), "autoattack:fgsm".into()],
        out: folder.path().join("c"),
        device: device_name().parse().unwrap(),
        command: "the same command".into(),
    };
    let with = |stop: bool| compare::run(&request, &mut Silent, &Arc::new(AtomicBool::new(stop)));
    assert!(with(true).unwrap_err().to_string().ends_with("resume with: the same command"));
    let note = "selected on the test set";
    let mut table = with(false).unwrap();
    assert!(
        first.lines().any(|line| table.cells()[1].iter().all(|cell| line.contains(cell.as_str()))),
        "{first}"
    );
    assert!(
        !first.contains(note) && !table.markdown().contains(note) && table.csv().contains(",heldout,PGD-20,")
    );
    table.rows[0].select = Select::Test;
    assert!(
        table.markdown().ends_with("(select = test): these numbers are optimistic.\n")
            && table.csv().contains(",test,PGD-20,")
    );
}
