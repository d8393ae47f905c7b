//! Attacks by name, as a command line gives them, and the parameters that each takes.

use super::{Attack, AttackEntry, Parameter, Params, attacks};
use crate::error::{Error, Result};

/// The spelling of an attack's name in tables and records: lower case, hyphens for underscores, none before
/// the number of steps. `PGD-20` and `pgd_20` are `pgd20`, and `pgd-1` is one step.
pub fn spelling(name: &str) -> String {
    let name = name.trim().to_lowercase().replace('_', "-");
    let (stem, steps) = split_steps(&name);
    match stem.strip_suffix('-') {
        Some(stem) if !steps.is_empty() => format!("{stem}{steps}"),
        _ => name,
    }
}

/// A name without the number at its end, and this number.
fn split_steps(name: &str) -> (&str, &str) {
    name.split_at(name.trim_end_matches(|c: char| c.is_ascii_digit()).len())
}

/// The entry that a name stands for, and the number of steps in the name.
fn find(name: &str) -> Result<(&'static AttackEntry, Option<usize>)> {
    let spelled = spelling(name);
    let (stem, digits) = split_steps(&spelled);
    let known = |entry: &&AttackEntry| {
        entry.name.strip_suffix('K').map_or(digits.is_empty() && entry.name == stem, |own| own == stem)
    };
    let unknown = || {
        let examples: Vec<String> = attacks().map(|entry| entry.name.replace('K', "20")).collect();
        Error::unknown("attack", name, examples.iter().map(String::as_str))
    };
    let entry = attacks().find(known).ok_or_else(unknown)?;
    let steps = (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX));
    Ok((entry, steps))
}

/// The largest number of steps, restarts, targets and passes.
const MOST: usize = i32::MAX as usize;

/// The attack called `name`: `fgsm`, `pgd20`, `pgd-100`, `cw`, `apgd-t`.
///
/// Errors: an unknown name, with the known ones; a number of steps, restarts, targets or passes that is 0 or
/// above 2^31 - 1; a radius that is no number, below 0 or above [`Norm::largest_radius`](super::Norm).
pub fn by_name(name: &str, params: &Params) -> Result<Box<dyn Attack>> {
    let (entry, own_steps) = find(name)?;
    let steps = own_steps.or(params.steps);
    let counts = [
        ("steps", steps.unwrap_or(1)),
        ("restarts", params.restarts),
        ("targets", params.targets),
        ("eot_iter", params.eot_iter),
    ];
    if let Some((key, value)) = counts.into_iter().find(|(_, value)| !(1..=MOST).contains(value)) {
        let bound = if value == 0 { "needs at least 1".into() } else { format!("takes at most {MOST}") };
        return Err(Error::value(key, value, format!("the attack {name} {bound}")));
    }
    let numbers = [("eps", params.ball.eps), ("kappa", params.kappa), ("momentum", params.momentum)];
    if let Some((key, value)) = numbers.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
        return Err(Error::value(key, value, "must be a number, 0 or more"));
    }
    params.ball.check()?;
    Ok((entry.build)(&Params { steps, ..*params }))
}

/// Checks the parameters that a person gives, by the names of their flags, for the attacks of these names.
///
/// Errors: one that none of the attacks takes, with the attacks that do; an attack with a number in its name
/// takes no steps besides.
pub fn check_given<'a>(
    names: impl IntoIterator<Item = &'a str>,
    given: &[(Parameter, String)],
) -> Result<()> {
    let named = names.into_iter().map(|name| Ok((name, find(name)?))).collect::<Result<Vec<_>>>()?;
    for (parameter, value) in given {
        let counted = |own: Option<usize>| *parameter == Parameter::Steps && own.is_some();
        if named.iter().any(|(_, (entry, own))| entry.parameters.contains(parameter) && !counted(*own)) {
            continue;
        }
        if let Some((name, (entry, _))) = named.iter().find(|(_, (_, own))| counted(*own)) {
            let stem = entry.name.trim_end_matches('K');
            let problem = format!("{name} has its number of steps in its name; write {stem}{value}");
            return Err(Error::value(parameter.to_string(), value, problem));
        }
        let known = attacks().filter(|entry| entry.parameters.contains(parameter));
        let known: Vec<&str> = known.map(|entry| entry.name.trim_end_matches('K')).collect();
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let takes = if names.len() == 1 { "does not take it" } else { "do not take it" };
        let problem = format!("{} {takes}; {} would", names.join(", "), known.join(", "));
        return Err(Error::value(parameter.to_string(), value, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::{Ball, Model, Norm, Points, logits};
    use crate::device::Buffer;
    use crate::nn::Net;
    use crate::tape::{Tape, Var};
    use crate::tensor::Tensor;

    #[test]
    fn a_name_has_one_spelling() {
        for (name, spelled) in [
            ("PGD-20", "pgd20"),
            ("pgd_20", "pgd20"),
            (" PGD20 ", "pgd20"),
            ("pgd-1", "pgd1"),
            ("pgd", "pgd"),
            ("APGD_CE", "apgd-ce"),
        ] {
            assert_eq!(spelling(name), spelled);
        }
        let own = |name| by_name(name, &Params::default()).map(|attack| attack.name());
        assert_eq!(own("pgd-1").unwrap(), "pgd1", "one step, as PGD-20 is twenty");
        assert_eq!(own("cw").unwrap(), "cw100");
        assert!(own("pgd--1").is_err() && own("fgsm-1").is_err() && own("apgd-ce-5").is_err());
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        let message = |params: Params, name| by_name(name, &params).err().unwrap().to_string();
        let ball = |norm, eps| Params { ball: Ball { norm, eps }, ..Params::default() };
        for (params, name, expected) in [
            (
                Params { targets: usize::MAX, ..Params::default() },
                "apgd-t",
                "targets = 18446744073709551615: the attack apgd-t takes at most 2147483647",
            ),
            (
                Params { restarts: 0, ..Params::default() },
                "pgd20",
                "restarts = 0: the attack pgd20 needs at least 1",
            ),
            (Params::default(), "pgd99999999999999999999", "steps = 18446744073709551615:"),
            (Params::default(), "pgd0", "steps = 0: the attack pgd0 needs at least 1"),
            (ball(Norm::L2, 1e30), "pgd20", "eps = 1000000000000000000000000000000: longer than"),
            (ball(Norm::Linf, 1.5), "pgd20", "eps = 1.5: pixels lie in [0, 1]"),
            (ball(Norm::L2, f32::NAN), "pgd20", "eps = NaN: must be a number"),
        ] {
            let message = message(params, name);
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(by_name("pgd20", &ball(Norm::L2, 100.0)).is_ok());
    }

    #[test]
    fn a_parameter_that_no_named_attack_takes_is_refused() {
        let check = |names: &[&str], parameter, value: &str| {
            check_given(names.iter().copied(), &[(parameter, value.to_owned())]).map_err(|e| e.to_string())
        };
        assert_eq!(check(&["pgd"], Parameter::Steps, "5"), Ok(()));
        assert_eq!(check(&["pgd20", "apgd-ce"], Parameter::Steps, "5"), Ok(()), "apgd-ce takes it");
        let fgsm = "restarts = 10: fgsm does not take it; pgd, cw, apgd-ce, apgd-dlr, apgd-t, fab-t, fab, \
                    square would";
        assert_eq!(check(&["fgsm"], Parameter::Restarts, "10"), Err(fgsm.into()));
        let kappa = "kappa = 3: pgd20, fgsm do not take it; cw would";
        assert_eq!(check(&["pgd20", "fgsm"], Parameter::Kappa, "3"), Err(kappa.into()));
        let steps = "steps = 100: pgd20 has its number of steps in its name; write pgd100";
        assert_eq!(check(&["pgd20"], Parameter::Steps, "100"), Err(steps.into()));
        assert!(check(&["pdg"], Parameter::Steps, "1").unwrap_err().starts_with("unknown attack 'pdg'"));
    }

    /// A network that counts its passes.
    struct Counted<'a>(&'a mut Net, usize);

    impl Model for Counted<'_> {
        fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
            self.1 += 1;
            self.0.logits(tape, x)
        }

        fn classes(&self) -> usize {
            self.0.classes()
        }
    }

    #[test]
    fn an_attack_takes_the_parameters_that_change_it() {
        use crate::device::Device;
        use crate::nn::{Arch, Shape};
        use strum::VariantArray;
        let device = Device::host().unwrap();
        let shape = Shape { channels: 1, height: 8, classes: 10, mean: vec![], std: vec![] };
        let mut net = Net::new(&device, Arch::find("resnet-mini").unwrap(), &shape, 3).unwrap();
        let n = 6;
        let pixels: Vec<f32> = (0..n * 64).map(|i| ((i * 37) % 97) as f32 / 97.0).collect();
        let x = Tensor::from_slice(&device, &[n, 8, 8, 1], &pixels).unwrap();
        let z = logits(&mut net, &x).unwrap();
        let mut labels = crate::ops::predict::argmax(&device, &z).unwrap().to_vec().unwrap();
        // Half of the points withstand a small ball; on the others the margin is below 0 from the start.
        labels[..n / 2].iter_mut().for_each(|label| *label = (*label + 1) % 10);
        let y = Buffer::from_slice(&device, &labels).unwrap();
        let images = Buffer::from_slice(&device, &(0..n as i32).collect::<Vec<_>>()).unwrap();
        let few = Params { ball: Ball::linf(1e-4), steps: Some(3), targets: 2, ..Params::default() };
        for entry in attacks() {
            let mut trace = |params: Params| {
                let mut model = Counted(&mut net, 0);
                let attack = by_name(entry.name.trim_end_matches('K'), &params).unwrap();
                let found = attack.run(&mut model, Points { x: &x, y: &y, images: &images }).unwrap();
                (found.x_adv.to_vec().unwrap(), model.1)
            };
            // In the small ball points withstand; in the large one a gradient changes its signs.
            let bases = [few, Params { ball: Ball::linf(0.3), step_size: Some(0.2), ..few }];
            let traces = bases.map(&mut trace);
            for parameter in Parameter::VARIANTS {
                let changed = |base: Params| match parameter {
                    Parameter::Steps => Params { steps: Some(5), ..base },
                    Parameter::StepSize => Params { step_size: Some(1.7e-5), ..base },
                    Parameter::Restarts => Params { restarts: 2, ..base },
                    Parameter::Targets => Params { targets: 4, ..base },
                    Parameter::EotIter => Params { eot_iter: 2, ..base },
                    Parameter::Kappa => Params { kappa: 0.0, ..base },
                    Parameter::Momentum => Params { momentum: 0.0, ..base },
                };
                let differs = bases.map(|base| trace(changed(base))) != traces;
                assert_eq!(differs, entry.parameters.contains(parameter), "{}: {parameter}", entry.name);
            }
        }
    }
}
