//! The attacks of a protocol in order: the versions of AutoAttack, and any other list.

use crate::attack::{self, Attack, Parameter, Params};
use crate::error::{Error, Result};

/// Attacks in order, each on the points that withstood the earlier ones.
pub struct Plan {
    /// `standard`, `plus`, `rand` or `custom`.
    pub version: String,
    pub stages: Vec<Stage>,
    /// Ball and seed of all stages, and their other parameters unless the version has its own.
    pub params: Params,
}

/// One attack of a plan.
pub struct Stage {
    /// `apgd-ce`.
    pub name: String,
    /// The name with all parameters that are not the default: stages with equal texts do the same.
    pub about: String,
    pub attack: Box<dyn Attack>,
}

impl Stage {
    /// The attack of this name.
    pub fn new(name: &str, params: &Params) -> Result<Stage> {
        let attack = attack::by_name(name, params)?;
        let name = attack.name();
        let Params { restarts, targets, eot_iter, kappa, momentum, steps, step_size, .. } = *params;
        let default = Params::default();
        let changed = [
            (restarts != default.restarts).then(|| format!("{restarts} restarts")),
            (targets != default.targets).then(|| format!("{targets} targets")),
            (eot_iter != default.eot_iter).then(|| format!("{eot_iter} passes a gradient")),
            (kappa != default.kappa).then(|| format!("kappa {kappa}")),
            (momentum != default.momentum).then(|| format!("momentum {momentum}")),
            steps.map(|steps| format!("{steps} steps")),
            step_size.map(|step| format!("steps of {step}")),
        ];
        let about = changed.into_iter().flatten().fold(name.clone(), |about, text| about + ", " + &text);
        Ok(Stage { name, about, attack })
    }
}

/// The name of the protocol, and what separates it from a list of attacks.
const NAME: &str = "autoattack";
/// An outcome is one letter per point, which tells this many attacks apart.
const MAX_STAGES: usize = 35;

/// The names that `--attack` takes besides the single attacks, each with a line about it.
pub const VERSIONS: [(&str, &str); 4] = [
    (
        NAME,
        "AutoAttack, version standard: apgd-ce, apgd-t, fab-t, square, each on the points that withstood \
         the earlier ones",
    ),
    (
        "autoattack-plus",
        "version plus: apgd-ce, apgd-dlr and fab with 5 restarts, then square, apgd-t and fab-t",
    ),
    (
        "autoattack-rand",
        "version rand, for randomized defenses: apgd-ce and apgd-dlr, gradients averaged over 20 passes",
    ),
    ("autoattack:A,B", "any attacks in the same protocol, such as autoattack:apgd-ce,square"),
];

impl Plan {
    /// These stages, which were built from `params`.
    ///
    /// Errors: none, or too many.
    pub fn new(version: &str, stages: Vec<Stage>, params: &Params) -> Result<Plan> {
        if stages.is_empty() || stages.len() > MAX_STAGES {
            let problem = format!("a protocol has 1 to {MAX_STAGES} attacks");
            return Err(Error::value("attack", stages.len(), problem));
        }
        Ok(Plan { version: version.into(), stages, params: *params })
    }

    /// apgd-ce, apgd-t, fab-t and square with their default numbers of steps, targets and queries.
    pub fn standard(params: &Params) -> Result<Plan> {
        let params = &version_params(params);
        Plan::new("standard", stages(&["apgd-ce", "apgd-t", "fab-t", "square"], params)?, params)
    }

    /// Five restarts of apgd-ce, apgd-dlr and fab, then square and the targeted attacks.
    pub fn plus(params: &Params) -> Result<Plan> {
        let params = &version_params(params);
        let mut list = stages(&["apgd-ce", "apgd-dlr", "fab"], &Params { restarts: 5, ..*params })?;
        list.extend(stages(&["square", "apgd-t", "fab-t"], params)?);
        Plan::new("plus", list, params)
    }

    /// apgd-ce and apgd-dlr with gradients that are means of 20 passes.
    pub fn rand(params: &Params) -> Result<Plan> {
        let params = &Params { eot_iter: 20, ..version_params(params) };
        Plan::new("rand", stages(&["apgd-ce", "apgd-dlr"], params)?, params)
    }

    /// Any list of attacks.
    pub fn custom(names: &[&str], params: &Params) -> Result<Plan> {
        Plan::new(CUSTOM, stages(names, params)?, params)
    }

    /// The plan of a list of names, the first of which is `autoattack`, `autoattack-plus`,
    /// `autoattack-rand`, or begins with `autoattack:`; `None` for a list of attacks that run each alone.
    ///
    /// Errors: attacks beside a version; unknown ones.
    pub fn named(names: &[String], params: &Params) -> Result<Option<Plan>> {
        let Some(at) = names.iter().position(|name| name.starts_with(NAME)) else { return Ok(None) };
        let alone = |problem: &str| Err(Error::value("attack", names.join(","), problem));
        if at > 0 {
            return alone("autoattack stands alone; evaluate other attacks in a call of their own");
        }
        if let Some(first) = names[0].strip_prefix("autoattack:") {
            let list = std::iter::once(first)
                .chain(names[1..].iter().map(String::as_str))
                .filter(|name| !name.is_empty());
            return Plan::custom(&list.collect::<Vec<_>>(), params).map(Some);
        }
        if names.len() > 1 {
            return alone("autoattack stands alone; for a list of your own write autoattack:A,B");
        }
        if *params != version_params(params) {
            return alone(OWN_PARAMETERS);
        }
        match names[0].replace('_', "-").as_str() {
            NAME | "autoattack-standard" => Plan::standard(params),
            "autoattack-plus" => Plan::plus(params),
            "autoattack-rand" => Plan::rand(params),
            _ => Err(Error::unknown("attack", &names[0], VERSIONS.iter().map(|(name, _)| *name))),
        }
        .map(Some)
    }
}

/// Checks the names that `--attack` takes, and the parameters that are `given`, before anything is loaded.
///
/// Errors: as [`Plan::named`] and [`attack::by_name`]; a parameter that none of the attacks takes.
pub fn check(names: &[String], params: &Params, given: &[(Parameter, String)]) -> Result<()> {
    let list = || names.iter().map(|name| name.strip_prefix("autoattack:").unwrap_or(name));
    match Plan::named(names, params)? {
        Some(plan) if plan.version != CUSTOM && given.is_empty() => Ok(()),
        Some(plan) if plan.version != CUSTOM => Err(Error::value("attack", names.join(","), OWN_PARAMETERS)),
        Some(_) => attack::check_given(list().filter(|name| !name.is_empty()), given),
        None => {
            attack::check_given(list(), given)?;
            names.iter().try_for_each(|name| attack::by_name(name, params).map(|_| ()))
        }
    }
}

/// The version of a list of one's own.
const CUSTOM: &str = "custom";
const OWN_PARAMETERS: &str =
    "the attacks of autoattack have parameters of their own; for others write autoattack:A,B";

/// The parameters of a version, which sets all but ball and seed.
fn version_params(&Params { ball, seed, .. }: &Params) -> Params {
    Params { ball, seed, ..Params::default() }
}

fn stages(names: &[&str], params: &Params) -> Result<Vec<Stage>> {
    names.iter().map(|name| Stage::new(name, params)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_with(list: &str, params: &Params) -> Result<Option<Plan>> {
        Plan::named(&list.split(',').map(str::to_owned).collect::<Vec<_>>(), params)
    }

    fn named(list: &str) -> Result<Option<Plan>> {
        named_with(list, &Params::default())
    }

    #[test]
    fn versions_are_those_of_autoattack() {
        let about = |list: &str| {
            let plan = named(list).unwrap().unwrap();
            (plan.version, plan.stages.into_iter().map(|stage| stage.about).collect::<Vec<_>>().join("; "))
        };
        let is = |list: &str, version: &str, stages: &str| {
            assert_eq!(about(list), (version.into(), stages.into()), "{list}")
        };
        is("autoattack", "standard", "apgd-ce; apgd-t; fab-t; square");
        is(
            "autoattack-plus",
            "plus",
            "apgd-ce, 5 restarts; apgd-dlr, 5 restarts; fab, 5 restarts; square; apgd-t; fab-t",
        );
        is("autoattack_rand", "rand", "apgd-ce, 20 passes a gradient; apgd-dlr, 20 passes a gradient");
        is("autoattack:apgd-ce,square", "custom", "apgd-ce; square");
        let short = Params { steps: Some(3), kappa: 1.0, restarts: 2, ..Params::default() };
        let own = named_with("autoattack:apgd-ce,cw", &short).unwrap().unwrap();
        let about: Vec<&str> = own.stages.iter().map(|stage| stage.about.as_str()).collect();
        assert_eq!(about, ["apgd-ce, 2 restarts, kappa 1, 3 steps", "cw3, 2 restarts, kappa 1, 3 steps"]);
        let error = named_with("autoattack", &short).err().unwrap().to_string();
        assert!(
            error.starts_with("attack = autoattack: the attacks of autoattack have parameters of their own"),
            "{error}"
        );
        assert!(named("pgd20,fgsm").unwrap().is_none());
    }

    #[test]
    fn parameters_that_are_given_are_taken() {
        let check = |list: &str, parameter, value: &str| {
            let names: Vec<String> = list.split(',').map(str::to_owned).collect();
            check(&names, &Params::default(), &[(parameter, value.to_owned())]).map_err(|e| e.to_string())
        };
        assert_eq!(check("autoattack:fgsm,square", Parameter::Restarts, "1"), Ok(()));
        let fgsm = "eot-iter = 1: fgsm, square do not take it; apgd-ce, apgd-dlr, apgd-t would";
        assert_eq!(check("autoattack:fgsm,square", Parameter::EotIter, "1"), Err(fgsm.into()));
        let version = "attack = autoattack: the attacks of autoattack have parameters of their own; for \
                       others write autoattack:A,B";
        assert_eq!(check("autoattack", Parameter::Restarts, "1"), Err(version.into()), "also its own value");
        assert!(check("pgd20,autoattack", Parameter::Restarts, "1").unwrap_err().contains("stands alone"));
    }

    #[test]
    fn a_version_stands_alone() {
        let message = |list: &str| named(list).err().unwrap().to_string();
        assert!(message("pgd20,autoattack").contains("stands alone"));
        assert!(message("autoattack,pgd20").contains("write autoattack:A,B"));
        assert!(message("autoattack-fast").starts_with("unknown attack 'autoattack-fast'"));
        assert!(message("autoattack:").contains("1 to 35 attacks"));
        assert!(
            message("autoattack:apgd-cd").starts_with("unknown attack 'apgd-cd' (did you mean 'apgd-ce'?)")
        );
    }
}
