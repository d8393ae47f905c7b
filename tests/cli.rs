//! The program from outside: its output, its exit status, and that a failed command leaves no files.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SADDLE: &str = env!("CARGO_BIN_EXE_saddle");

/// Runs `saddle` with the words of `line` in an empty folder, which must stay empty when the command fails.
fn saddle(line: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let output = saddle_in(folder.path(), line);
    if !output.status.success() {
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "saddle {line} left {left:?}");
    }
    output
}

fn saddle_in(folder: &Path, line: &str) -> Output {
    Command::new(SADDLE)
        .args(line.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The output of a successful command.
fn printed(line: &str) -> String {
    let output = saddle(line);
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "saddle {line}: {err}");
    assert_eq!(err, "", "saddle {line} writes to standard error");
    out
}

fn json(line: &str) -> Value {
    serde_json::from_str(&printed(line)).unwrap()
}

/// The one line that a failing command writes, after `error: `.
fn complaint(output: Output, status: i32) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(status), "{err}");
    assert_eq!(out, "", "nothing is printed besides the error");
    assert_eq!(err.lines().count(), 1, "{err}");
    err.trim_end().strip_prefix("error: ").unwrap_or_else(|| panic!("no error line: {err}")).to_owned()
}

fn error(line: &str) -> String {
    complaint(saddle(line), 1)
}

fn usage_error(line: &str) -> String {
    complaint(saddle(line), 2)
}

/// Checks that `message` begins as expected.
#[track_caller]
fn begins(message: String, expected: &str) {
    assert!(message.starts_with(expected), "expected: {expected}...\nfound: {message}");
}

#[test]
fn help_names_every_command_and_key() {
    let help = printed("--help");
    for command in [
        "train",
        "eval",
        "attack",
        "corruptions",
        "compare",
        "analyse",
        "precision",
        "check-step",
        "bench",
        "inspect",
        "devices",
        "kernels",
        "recipes",
        "keys",
        "models",
        "methods",
        "attacks",
        "datasets",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in:\n{help}");
        let own = printed(&format!("help {command}"));
        assert!(own.contains(&format!("Usage: saddle {command}")), "{own}");
        assert_eq!(own, printed(&format!("{command} --help")));
    }
    let train = printed("help train");
    for key in saddle::config::KEYS {
        let flag = format!("--{}", key.name.replace('_', "-"));
        assert!(train.contains(&flag), "{flag} is not in:\n{train}");
        assert!(train.contains(&format!("\n{}:\n", key.group)));
    }
    let train = train.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "(ε)",
        "[default: 8/255; digits: 0.1]",
        "Without RECIPE, the recipe is 'digits'.",
        "saddle train --resume",
    ] {
        assert!(train.contains(part), "{part} is not in:\n{train}");
    }
    let bare = saddle("");
    assert_eq!(bare.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bare.stderr).contains("Usage: saddle"));
    assert!(printed("--version").starts_with(concat!("saddle ", env!("CARGO_PKG_VERSION"), " (")));
}

#[test]
fn devices_say_what_is_there_and_what_is_missing() {
    let found = json("devices --json");
    let (host, cuda) = (&found["host"], &found["cuda"]);
    assert!(host["threads"].as_u64().unwrap() >= 1);
    assert!(host["instruction_sets"].as_array().unwrap().contains(&host["instruction_set"]), "{host}");
    let (gpus, missing) = (cuda["gpus"].as_array().unwrap(), cuda["missing"].as_array().unwrap());
    assert_eq!(gpus.is_empty(), !missing.is_empty(), "without a GPU there is a reason: {cuda}");
    assert_eq!(found["auto"], if gpus.is_empty() { "host" } else { "cuda:0" });
    let text = printed("devices");
    for part in ["host\n", "instruction sets", "CUDA\n", "driver", "NVRTC", "--device auto is"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert_eq!(text.matches("missing: ").count(), missing.len(), "{text}");
}

#[test]
fn kernels_are_listed() {
    let kernels = json("kernels --json");
    let text = printed("kernels");
    for kernel in kernels.as_array().unwrap() {
        let field = |name: &str| kernel[name].as_str().unwrap();
        assert!(text.contains(field("name")) && text.contains(field("file")), "{kernel}");
        assert!(
            field("signature").starts_with(&format!("{}(", field("name"))) && !field("doc").is_empty(),
            "{kernel}"
        );
    }
    assert!(text.contains("fill_value(float* out, float value, int n)"), "{text}");
    assert_eq!(json("kernels FILL_VALUE --json").as_array().unwrap().len(), 1);
    assert!(printed("kernels FILL_VALUE").ends_with("\n1 kernel in 1 file\n"));
    begins(error("kernels fill_valeu"), "unknown kernel 'fill_valeu' (did you mean 'fill_value'?)");
}

#[test]
fn kernels_compile_where_nvrtc_is() {
    let line = "kernels fill_value --compile sm_80,sm_90a";
    if json("devices --json")["cuda"]["nvrtc"].is_null() {
        begins(error(line), "device cuda cannot be used: the run-time compiler NVRTC");
    } else {
        let rows = json(&format!("{line} --json"));
        assert_eq!(rows.as_array().unwrap().len(), 2);
        for row in rows.as_array().unwrap() {
            assert!(row["registers"].as_u64().unwrap() > 0 && row["spill_bytes"] == 0, "{row}");
        }
        assert!(printed(line).lines().nth(1).unwrap().starts_with("sm_80 "));
        let wrong = saddle("kernels fill_value --compile sm_1");
        assert_eq!(wrong.status.code(), Some(1));
        let notes = String::from_utf8(wrong.stderr).unwrap();
        assert!(notes.ends_with("error: kernels: fill.cu does not compile for sm_1\n"), "{notes}");
    }
}

#[test]
fn recipes_are_listed_and_printed() {
    let list = printed("recipes");
    for recipe in json("recipes --json").as_array().unwrap() {
        let name = recipe["name"].as_str().unwrap();
        assert!(list.lines().any(|line| line == name), "{name}");
        assert!(printed(&format!("recipes {name}")).starts_with("about = "), "{name}");
    }
    assert_eq!(json("recipes digits --json")["config"]["eps"], 0.1);
    // A file to edit: what the recipe sets, and every other key that holds as a comment.
    let digits = printed("recipes digits");
    for line in ["eps = 0.1", "# norm = \"linf\"", "# momentum = 0.9", "# Optimiser", "[reference]"] {
        assert!(digits.lines().any(|own| own == line), "{line} is not in:\n{digits}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.toml"), &digits).unwrap();
    let own = saddle_in(folder.path(), "recipes mine.toml");
    assert_eq!(String::from_utf8(own.stdout).unwrap(), digits);
    begins(error("train raat-cifar"), "unknown recipe 'raat-cifar' (did you mean 'raat-cifar10-resnet18'?)");
    begins(error("recipes digist"), "unknown recipe 'digist' (did you mean 'digits'?); known: ");
}

#[test]
fn keys_are_listed() {
    let keys = json("keys --json");
    assert_eq!(keys.as_array().unwrap().len(), saddle::config::KEYS.len());
    let text = printed("keys");
    for key in saddle::config::KEYS {
        assert!(text.contains(&format!("\n  {}", key.name)), "{}", key.name);
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert_eq!(json("keys weight-decay --json")[0]["default"], "0.0005");
    assert!(
        json("keys learning --json").as_array().unwrap().iter().any(|key| key["name"] == "lr"),
        "meanings are searched, too"
    );
    begins(error("keys epochz"), "unknown key 'epochz' (did you mean 'epochs'?)");
}

#[test]
fn registries_are_listed() {
    for (list, name) in
        [("models", "resnet-mini"), ("methods", "pgd-at"), ("attacks", "fgsm"), ("datasets", "digits")]
    {
        assert!(
            printed(list).lines().any(|line| line == name || line.starts_with(&format!("{name} "))),
            "{list}"
        );
        assert!(
            json(&format!("{list} --json")).as_array().unwrap().iter().any(|entry| entry["name"] == name)
        );
    }
}

#[test]
fn lists_take_words() {
    let names = |line: &str| -> Vec<String> {
        let list = json(&format!("{line} --json"));
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    for (line, some, others) in [
        ("recipes raat cifar10", "raat-cifar10-resnet18", "raat-digits"),
        ("recipes RAAT-digits-", "raat-digits", "mart-digits"),
        ("methods trades", "trades", "pgd-at"),
        ("methods rho", "raat", "trades"),
        ("attacks apgd", "apgd-ce", "fgsm"),
        ("attacks momentum", "mimK", "square"),
        ("models wrn 28", "wrn-28-10", "wrn-34-10"),
        ("datasets cifar", "cifar100", "digits"),
        ("keys late eps", "late_eps", "eps"),
        ("kernels attack_step linf", "attack_step_linf", "attack_step_l2"),
    ] {
        let found = names(line);
        let has = |name: &str| found.iter().any(|own| own == name);
        assert!(has(some) && !has(others), "{line}: {found:?}");
    }
    for (line, expected) in [
        ("models resnet-mimi", "unknown model 'resnet-mimi' (did you mean 'resnet-mini'?)"),
        ("attacks pgdd", "unknown attack 'pgdd' (did you mean 'pgdK'?)"),
        ("datasets cifarr", "unknown data set 'cifarr'"),
        ("methods mort", "unknown method 'mort' (did you mean 'mart'?)"),
    ] {
        begins(error(line), expected);
    }
    let attacks = json("attacks --json");
    let square = attacks.as_array().unwrap().iter().find(|attack| attack["name"] == "square").unwrap();
    assert_eq!(square["parameters"], serde_json::json!(["steps", "restarts"]));
    let text = printed("attacks");
    assert!(text.contains("--momentum") && text.lines().all(|line| line.chars().count() <= 120), "{text}");
}

#[test]
fn texts_agree_with_each_other() {
    // One job, one duration.
    for text in [printed("--help"), printed("recipes digits"), include_str!("../README.md").to_owned()] {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("about ten seconds on two cores"), "{text}");
    }
    for command in
        ["train", "eval", "attack", "corruptions", "compare", "analyse", "bench", "check-step", "inspect"]
    {
        let help = printed(&format!("help {command}"));
        assert!(help.contains("[default: ") && !help.contains('`'), "defaults have one form: {help}");
    }
}

#[test]
fn the_package_holds_what_its_readme_links_to() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let excluded: Vec<&str> = manifest["package"]["exclude"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap())
        .collect();
    assert!(excluded.contains(&".ci/") && excluded.contains(&".gitignore"), "{excluded:?}");
    for text in [include_str!("../README.md"), include_str!("../docs/results.md")] {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.trim_start_matches("../");
            assert!(
                excluded.iter().all(|out| !format!("{path}/").starts_with(out)),
                "{link} is not packaged"
            );
        }
    }
}

#[test]
fn wrong_arguments_get_one_line_with_the_nearest_name() {
    for (line, expected) in [
        ("trian", "unrecognized subcommand 'trian' (did you mean 'train'?); see saddle --help"),
        (
            "train --epss 1",
            "unexpected argument '--epss' found (did you mean '--eps'?); see saddle train --help",
        ),
        (
            "train --eps",
            "a value is required for '--eps <8/255|NUMBER>' but none was supplied; see saddle train --help",
        ),
        (
            "train digits --resume x",
            "the argument '[RECIPE]' cannot be used with '--resume <DIR>'; see saddle train --help",
        ),
        (
            "eval",
            "the following required arguments were not provided: --weights <FILE|RUN>; \
             see saddle eval --help",
        ),
        (
            "eval runs/mine",
            "unexpected argument 'runs/mine' found (did you mean '--weights runs/mine'?); see saddle eval",
        ),
        (
            "bench kernel",
            "invalid value 'kernel' for '[WHAT]' [possible values: kernels, step, parts] \
             (did you mean 'kernels'?)",
        ),
    ] {
        begins(usage_error(line), expected);
    }
}

#[test]
fn wrong_settings_get_one_line() {
    for (line, expected) in [
        ("train digist", "unknown recipe 'digist' (did you mean 'digits'?); known: "),
        ("train no/such.toml", "no/such.toml: cannot read the recipe: "),
        ("train --set epoch=3", "unknown key 'epoch' (did you mean 'epochs'?); known: "),
        ("train --set lr", "--set = lr: not of the form key=value"),
        ("train --eps -1/255", "eps = -1/255: must not be negative"),
        ("train --eps nan", "eps = nan: not a number; write 8/255, 0.0314 or, with --pixel-units, 8"),
        ("train --eps 8", "eps = 8: pixels lie in [0, 1]; write 8/255 or add --pixel-units"),
        ("train --step-size 0", "step_size = 0: the attack would not move"),
        ("train --batch 0", "batch = 0: must be 1 or more"),
        ("train --lr -0.1", "lr = -0.1: must not be negative"),
        ("train --norm l3", "unknown norm 'l3' (did you mean 'l2'?)"),
        ("train --device gpux", "unknown device 'gpux'"),
        ("train --dataset cifar1", "unknown data set 'cifar1' (did you mean 'cifar10'?)"),
        ("train --resume nowhere", "nowhere: holds no run (there is no run.json in it)"),
        ("bench --seconds -1", "seconds = -1: must be above 0"),
        ("bench kernels --method raat", "bench = kernels: takes no --method"),
        ("bench parts --precision bf16", "bench = parts: takes no --precision"),
        ("bench step --tune", "bench = step: takes no --tune"),
        ("bench kernels --model resnet81", "unknown model 'resnet81' (did you mean 'resnet18'?)"),
        ("bench step --precision bf61", "unknown precision 'bf61' (did you mean 'bf16'?)"),
        ("compare --methods no.toml", "no.toml: cannot read the recipe: "),
        ("compare --set seed=3", "--set = seed=3: is set by --seeds"),
        ("compare --attack pdg", "unknown attack 'pdg'; known: fgsm"),
        ("bench --device hots", "unknown device 'hots' (did you mean 'host'?)"),
    ] {
        begins(error(line), expected);
    }
}

#[test]
fn jobs_that_cannot_start_leave_nothing() {
    for (line, expected) in [
        ("train --method pgd-att", "unknown method 'pgd-att' (did you mean 'pgd-at'?)"),
        ("train --model resnet-mimi", "unknown model 'resnet-mimi' (did you mean 'resnet-mini'?)"),
        ("train --device cuda:99", "device cuda:99 cannot be used: "),
        ("train --dataset cifar10", "data = none: cifar10 is read from a folder: --data DIR"),
        ("train --dataset cifar10 --data nowhere --out run", "nowhere: no such folder"),
    ] {
        begins(error(line), expected);
    }
}

#[test]
fn weights_must_be_there_and_say_what_they_are_for() {
    begins(error("eval --weights nowhere.safetensors"), "nowhere.safetensors: cannot open the weights: ");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("net.safetensors"), "x").unwrap();
    std::fs::create_dir_all(folder.path().join("run")).unwrap();
    let answer = |line: &str| complaint(saddle_in(folder.path(), line), 1);
    begins(
        answer("eval --weights net.safetensors"),
        "net.safetensors: no run.json says which data set these weights are for",
    );
    begins(answer("eval --weights run"), "run: holds no run (there is no run.json in it)");
    std::fs::write(folder.path().join("run/run.json"), r#"{"config": {"eps": "8/255", "seed": 3}}"#).unwrap();
    begins(answer("eval --weights run"), "run: this run has no checkpoint yet");
    begins(
        answer("eval --weights net.safetensors --dataset digits --eps -1"),
        "eps = -1: must not be negative",
    );
    begins(answer("eval --weights net.safetensors --dataset digits --n 0"), "n = 0: must be 1 or more");
    begins(answer("train --resume run --eps 0.3"), "eps = 0.3: a resumed run keeps its settings");
    std::fs::write(folder.path().join("run/run.json"), "{").unwrap();
    begins(answer("train --resume run"), "run/run.json: not the record of a run: ");
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let mut child =
        Command::new(SADDLE).args(["keys"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut notes = String::new();
    child.stderr.take().unwrap().read_to_string(&mut notes).unwrap();
    assert_eq!((child.wait().unwrap().code(), notes.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(SADDLE).arg("keys").stdout(full).output().unwrap();
    begins(complaint(output, 1), "standard output: cannot write: ");
}

/// A library of the driver's name without its functions, as a broken installation leaves it.
#[test]
fn a_broken_driver_library_is_said_and_the_host_works() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("empty.cpp"), "extern \"C\" int nothing() { return 0; }\n").unwrap();
    let compiled = Command::new("c++")
        .args(["-shared", "-fPIC", "-o", "libcuda.so", "empty.cpp"])
        .current_dir(here)
        .status()
        .unwrap();
    assert!(compiled.success());
    std::fs::copy(here.join("libcuda.so"), here.join("libnvrtc.so")).unwrap();
    let run = |line: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_saddle"))
            .args(line.split_whitespace())
            .current_dir(here)
            .env("LD_LIBRARY_PATH", here)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, devices, _) = run("devices");
    assert!(
        code == Some(0) && devices.contains("has no cuInit, so it is not an NVIDIA driver's"),
        "{devices}"
    );
    let (code, _, message) = run("train --device cuda");
    assert!(code == Some(1) && message.starts_with("error: ") && message.contains("cuInit"), "{message}");
    let (code, _, message) = run("kernels --compile add --arch sm_80");
    assert!(code != Some(101) && !message.contains("panicked"), "{message}");
    let (code, _, message) = run("train --device host --epochs 1 --attack-steps 1 --batch 512 --quiet");
    assert_eq!(code, Some(0), "{message}");
}

/// A limit on processes, as containers set it, leaves no room for threads.
#[cfg(unix)]
#[test]
fn without_threads_everything_runs_on_one() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    // The limit does not hold for root: then another user runs a copy that it may read.
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::set_permissions(here, std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = here.join("saddle");
    std::fs::copy(SADDLE, &program).unwrap();
    let mut words = vec!["bash", "-c", "ulimit -u 1; exec \"$0\" \"$@\"", program.to_str().unwrap()];
    if std::fs::metadata(here).unwrap().uid() == 0 {
        words.splice(0..0, ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    let run = |line: &str| {
        let command = words.iter().copied().chain(line.split_whitespace());
        let output = Command::new("env").args(command).current_dir(here).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, devices, notes) = run("devices");
    assert_eq!(code, Some(0), "{notes}");
    assert!(
        devices.contains("threads           1\n") && notes.ends_with("; using one thread\n"),
        "{devices}{notes}"
    );
    let (code, _, notes) = run("train --device host --epochs 1 --attack-steps 1 --batch 512 --out run");
    assert!(code == Some(0) && !notes.contains("panicked"), "{notes}");
}
