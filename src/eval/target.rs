//! The target of an evaluation: the weight files that a path stands for, and the settings to evaluate them
//! with.

use crate::config::Config;
use crate::config::recipe;
use crate::data;
use crate::error::{Error, Result};
use crate::files::weights::WeightFile;
use crate::method;
use crate::run::dir::RunDir;
use std::path::{Path, PathBuf};

/// Weight files, and the run that they belong to.
#[derive(Debug)]
pub struct Weights {
    /// One file, or the best and the last checkpoint of a run if they differ.
    pub files: Vec<PathBuf>,
    pub run: Option<RunDir>,
}

impl Weights {
    /// The weights at `path`: a file, or the checkpoints of a run directory named `checkpoints` (`None`: best
    /// and last).
    ///
    /// Errors: [`Error::Io`] if there is nothing, [`Error::File`] for a folder without these checkpoints,
    /// [`Error::Value`] for names of checkpoints beside a file.
    pub fn find(path: &Path, checkpoints: Option<&[&str]>) -> Result<Weights> {
        let kind = std::fs::metadata(path).map_err(Error::io(path, "cannot open the weights"))?;
        if !kind.is_dir() {
            if checkpoints.is_some() {
                let problem = "is a file; --checkpoint selects in a run directory";
                return Err(Error::value("weights", path.display(), problem));
            }
            let run = path.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
            let run = run.filter(|run| run.join("run.json").is_file()).map(RunDir::open).transpose()?;
            return Ok(Weights { files: vec![path.to_owned()], run });
        }
        let run = RunDir::open(path)?;
        let names = checkpoints.unwrap_or(&["best", "last"]);
        let paths = names.iter().map(|name| run.checkpoint(name));
        let mut files: Vec<PathBuf> = paths.filter(|file| file.is_file()).collect();
        if files.is_empty() {
            let problem = format!("this run has no checkpoint yet (checkpoints/{}.safetensors)", names[0]);
            return Err(Error::file(path, problem));
        }
        if let [first, second] = files.as_slice()
            && WeightFile::read(first)?.tensors == WeightFile::read(second)?.tensors
        {
            files.pop();
        }
        Ok(Weights { files, run: Some(run) })
    }
}

/// The settings of an evaluation. In order of precedence: `settings`; `metadata`, the keys that a weight file
/// outside of a run records; `run`, the settings of a run; the defaults of the data set, which for digits are
/// those of the default recipe. Batch size and device are never a run's.
///
/// Returns `None` if neither `run` nor `settings` says which data set to use.
///
/// Errors: settings that cannot be read or that contradict each other.
pub fn settings_of(
    run: Option<Config>,
    metadata: &[(&str, &str)],
    settings: &[(String, String)],
) -> Result<Option<Config>> {
    let value = |name: &str| settings.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value);
    let mut config = match (run, value("dataset")) {
        (Some(run), _) => run,
        (None, Some(name)) if data::find(name)?.name == "digits" => {
            method::load_recipe(recipe::DEFAULT)?.config
        }
        (None, Some(_)) => Config::default(),
        (None, None) => return Ok(None),
    };
    let Config { batch, device, .. } = Config::default();
    (config.batch, config.device) = (batch, device);
    config.apply(metadata)?;
    let dataset = config.dataset.clone();
    method::apply(&mut config, settings)?;
    if config.dataset != dataset && value("data").is_none() {
        // The folder holds the other data set.
        config.data = None;
    }
    config.validate()?;
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_by_precedence() {
        let of = |run: &Option<Config>, metadata: &[(&str, &str)], pairs: &[(&str, &str)]| {
            settings_of(run.clone(), metadata, &settings(pairs)).unwrap().unwrap()
        };
        assert!(settings_of(None, &[("norm", "l2")], &settings(&[("eps", "0.2")])).unwrap().is_none());
        let digits = of(&None, &[], &[("dataset", "digits")]);
        assert_eq!((digits.eps.to_string(), digits.batch), ("0.1".into(), Config::default().batch));
        let cifar = [("dataset", "cifar10"), ("data", "folder")];
        assert_eq!(of(&None, &[], &cifar).eps, Config::default().eps);
        assert_eq!(of(&None, &[("norm", "linf"), ("eps", "4/255")], &cifar).eps.to_string(), "4/255");

        let mut run = Config::default();
        run.apply(&[("dataset", "cifar10"), ("data", "folder"), ("eps", "0.3"), ("batch", "7")]).unwrap();
        let run = Some(run);
        let own = of(&run, &[], &[]);
        assert_eq!((own.eps.to_string(), own.batch), ("0.3".into(), Config::default().batch));
        assert_eq!(of(&run, &[], &[("eps", "0.2")]).eps.to_string(), "0.2");
        assert_eq!(of(&run, &[], &[("dataset", "cifar10")]).data, Some("folder".into()));
        assert_eq!(of(&run, &[], &[("dataset", "digits")]).data, None, "another data set");
        assert!(settings_of(run, &[], &settings(&[("eps", "-1")])).is_err());
    }

    #[test]
    fn weights_of_files_and_of_runs() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let best = run.join("checkpoints/best.safetensors");
        std::fs::create_dir_all(best.parent().unwrap()).unwrap();
        let message = |checkpoints| Weights::find(&run, checkpoints).unwrap_err().to_string();
        assert!(message(None).ends_with("run: holds no run (there is no run.json in it)"));
        std::fs::write(run.join("run.json"), "{}").unwrap();
        assert!(message(Some(&["last"])).ends_with("no checkpoint yet (checkpoints/last.safetensors)"));
        std::fs::write(&best, "weights").unwrap();
        let found = |path: &Path| {
            let Weights { files, run } = Weights::find(path, None).unwrap();
            (files, run.map(|run| run.root().to_owned()))
        };
        assert_eq!(found(&run), (vec![best.clone()], Some(run.clone())));
        assert_eq!(found(&best), found(&run), "a checkpoint belongs to its run");
        let beside = Weights::find(&best, Some(&["best"])).unwrap_err().to_string();
        assert!(beside.ends_with("is a file; --checkpoint selects in a run directory"), "{beside}");
        let alone = folder.path().join("net.safetensors");
        std::fs::copy(&best, &alone).unwrap();
        assert_eq!(found(&alone), (vec![alone.clone()], None));
    }
}
