//! FAB, the fast adaptive boundary attack (Croce and Hein: Minimally distorted adversarial examples with a
//! fast adaptive boundary attack, arXiv 1907.02044), as in AutoAttack.
//!
//! ```text
//! x_0 = x (restarts: a random point at distance eps/2);  best <- infinity
//! repeat T times:
//!     h, w <- z_t - z_y and its gradient at x_k
//!     d1, d2 <- shortest steps within [0,1] from x_k and from x to where h + <w, . - x_k> = 0
//!     al <- min(|d1| / (|d1| + |d2|), alpha_max)
//!     x_{k+1} <- clip01((1 - al)(x_k + eta d1) + al (x + eta d2))
//!     if x_{k+1} is misclassified: keep it if it is the closest to x;  x_{k+1} <- x + beta (x_{k+1} - x)
//! the closest one counts if its distance is at most eps
//! ```
//! The class t is given in FAB-T; in FAB it is the one whose hyperplane is nearest in each step, for which
//! all K gradients are needed. A point's result depends on the point and its target alone, bit for bit, so
//! points and targets can be packed into any batches.
//!
//! One pass does not serve both as check of x_{k+1} and as gradient of the next step: eta > 1 aims beyond the
//! boundary, and a point that got there is moved before its next gradient. Different from AutoAttack's code:
//! the random numbers of restarts, which are keyed by image; and in L2 its projection leaves pixels alone
//! whose |w_i| is below 1e-8, where this one is exact: it moves them in proportion to w_i.

use super::attempts::{Points, at_target_ranks, attempts};
use super::ball::{Ball, Norm, RngKey};
use super::objective::logits;
use super::{Attack, AttackEntry, AttackResult, Model, Parameter, Params, Targeted};
use crate::device::Buffer;
use crate::device::trace::Range;
use crate::error::Result;
use crate::ops::fab::{self, Nearest, Stride};
use crate::ops::fill::full;
use crate::ops::gather::select;
use crate::ops::logit_difference::logit_difference;
use crate::ops::predict::{correct, top_class};
use crate::rng::{Key, Purpose};
use crate::tape::Tape;
use crate::tensor::Tensor;

pub(super) const ATTACKS: &[AttackEntry] = &[
    AttackEntry {
        name: "fab-t",
        about: "FAB, 100 steps along the boundary to the closest misclassified image, towards nine classes \
            one after the other",
        paper: "Croce and Hein, arXiv 1907.02044",
        parameters: &[Parameter::Steps, Parameter::Restarts, Parameter::Targets],
        build: |params| Box::new(FabT::new(params)),
    },
    AttackEntry {
        name: "fab",
        about: "FAB towards the nearest class in each step",
        paper: "Croce and Hein, arXiv 1907.02044",
        parameters: &[Parameter::Steps, Parameter::Restarts],
        build: |params| Box::new(Fab::new(params)),
    },
];

/// The walk that both forms share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walk {
    pub ball: Ball,
    /// T.
    pub steps: usize,
    pub stride: Stride,
    /// How much of the way from the clean image a misclassified point keeps.
    pub beta: f32,
}

impl Walk {
    /// 100 steps by default; alpha_max 0.1, eta 1.05, beta 0.9.
    pub fn new(&Params { ball, steps, .. }: &Params) -> Walk {
        let stride = Stride { alpha_max: 0.1, eta: 1.05 };
        Walk { ball, steps: steps.unwrap_or(100), stride, beta: 0.9 }
    }

    fn l2(&self) -> bool {
        self.ball.norm == Norm::L2
    }

    /// Where a walk begins: number 0 at the image, the others at a random point at half the radius.
    fn start(&self, Points { x, y, images }: Points, seed: u64, restart: usize) -> Result<Tensor> {
        if restart == 0 {
            return Ok(x.clone());
        }
        let key = Key::new(seed, Purpose::Fab, 0, restart as u32);
        let views = Buffer::zeros(x.device(), y.len())?;
        self.ball.scaled(0.5).surface(x, RngKey { key, images }, &views)
    }

    /// Walks from `walk`; `plane` gives, for images, h `[N]` and w, or `None` when the logits do not depend
    /// on the image. `clean_correct` `[N]` says which clean images are classified correctly.
    fn run(
        &self,
        model: &mut dyn Model,
        Points { x, y, .. }: Points,
        clean_correct: &Buffer<i32>,
        mut walk: Tensor,
        mut plane: impl FnMut(&mut dyn Model, &Tensor) -> Result<Option<(Tensor, Tensor)>>,
    ) -> Result<AttackResult> {
        let (device, l2) = (x.device(), self.l2());
        let _attack = device.scope(Range::Attack);
        let mut best = Buffer::from_slice(device, &vec![f32::INFINITY; y.len()])?;
        let mut closest = x.clone();
        for step in 1..=self.steps {
            let _step = device.scope(Range::AttackStep(step));
            let Some((h, w)) = plane(model, &walk)? else { break };
            fab::step(l2, &mut walk, x, &w, &h, self.stride)?;
            let adv_correct = correct(device, &logits(model, &walk)?, y)?;
            fab::keep(l2, &mut walk, x, &adv_correct, &mut best, &mut closest, self.beta)?;
        }
        // Where the closest point is out of reach the walk has no image to show for it.
        let reached = select(&fab::within(&best, self.ball.eps)?, &closest, x)?;
        AttackResult::of(model, y, select(clean_correct, &reached, x)?)
    }
}

/// FAB-T: walks towards each of the classes that rank next for the clean image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FabT {
    pub walk: Walk,
    /// The ranks 2 to `targets + 1` are tried.
    pub targets: usize,
    /// How often it walks towards each.
    pub restarts: usize,
    pub seed: u64,
}

impl FabT {
    /// With these parameters.
    pub fn new(params: &Params) -> FabT {
        let &Params { targets, restarts, seed, .. } = params;
        FabT { walk: Walk::new(params), targets, restarts, seed }
    }

    /// One walk from every point towards, row by row, the class of rank `target_ranks` `[N]` among the logits
    /// of the clean image, the predicted one being 1. Rows may be the same point with several ranks. There is
    /// nothing random in restart 0; the others begin like those of [`Fab`].
    pub fn run_once(
        &self,
        model: &mut dyn Model,
        points: Points,
        target_ranks: &Buffer<i32>,
        restart: usize,
    ) -> Result<AttackResult> {
        let Points { x, y, .. } = points.checked()?;
        let (device, clean) = (x.device(), logits(model, x)?);
        let start = self.walk.start(points, self.seed, restart)?;
        let targets = top_class(device, &clean, target_ranks)?;
        let ones = full(device, &[y.len()], 1.0)?;
        self.walk.run(model, points, &correct(device, &clean, y)?, start, |model, at| {
            let forward = device.scope(Range::Forward);
            let tape = Tape::new(device);
            let leaf = tape.leaf(at.clone());
            let z = model.logits(&tape, leaf)?;
            let h = logit_difference(&tape, z, y, &targets)?;
            drop(forward);
            let w = tape.backward(h, Some(ones.clone()))?.take(leaf);
            Ok(w.map(|w| (tape.value(h), w)))
        })
    }
}

impl Attack for FabT {
    fn name(&self) -> String {
        "fab-t".into()
    }

    fn run(&self, model: &mut dyn Model, points: Points) -> Result<AttackResult> {
        let ranks = self.target_ranks(model.classes());
        at_target_ranks(points, ranks, self.restarts, |points, ranks, restart| {
            self.run_once(model, points, ranks, restart)
        })
    }

    fn passes(&self) -> usize {
        1 + 2 * self.walk.steps
    }

    fn targeted(&self) -> Option<&dyn Targeted> {
        (self.restarts == 1).then_some(self)
    }
}

impl Targeted for FabT {
    fn targets(&self) -> usize {
        self.targets
    }

    fn attempt(
        &self,
        model: &mut dyn Model,
        points: Points,
        target_ranks: &Buffer<i32>,
    ) -> Result<AttackResult> {
        self.run_once(model, points, target_ranks, 0)
    }
}

/// FAB without targets, several times: first from the image, then from random points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fab {
    pub walk: Walk,
    /// How often it walks.
    pub restarts: usize,
    pub seed: u64,
}

impl Fab {
    /// With these parameters.
    pub fn new(params: &Params) -> Fab {
        Fab { walk: Walk::new(params), restarts: params.restarts, seed: params.seed }
    }

    /// One walk from every point; all but number 0 begin at a random point at half the radius.
    pub fn run_once(&self, model: &mut dyn Model, points: Points, restart: usize) -> Result<AttackResult> {
        let Points { x, y, .. } = points.checked()?;
        let (device, l2) = (x.device(), self.walk.l2());
        let start = self.walk.start(points, self.seed, restart)?;
        let ones = full(device, &[y.len()], 1.0)?;
        let every = |k: usize| Buffer::from_slice(device, &vec![k as i32; y.len()]);
        let rivals = (0..model.classes()).map(every).collect::<Result<Vec<_>>>()?;
        let clean_correct = correct(device, &logits(model, x)?, y)?;
        self.walk.run(model, points, &clean_correct, start, |model, at| {
            let forward = device.scope(Range::Forward);
            let tape = Tape::new(device);
            let leaf = tape.leaf(at.clone());
            let z = model.logits(&tape, leaf)?;
            drop(forward);
            let mut nearest = Nearest::new(at)?;
            for (k, rival) in rivals.iter().enumerate() {
                let h = logit_difference(&tape, z, y, rival)?;
                let Some(w) = tape.backward(h, Some(ones.clone()))?.take(leaf) else { return Ok(None) };
                nearest.offer(l2, k, &tape.value(h), &w, y)?;
            }
            Ok(Some((nearest.h, nearest.w)))
        })
    }
}

impl Attack for Fab {
    fn name(&self) -> String {
        "fab".into()
    }

    fn run(&self, model: &mut dyn Model, points: Points) -> Result<AttackResult> {
        attempts(points, 0..self.restarts, |restart, points| self.run_once(model, points, restart))
    }

    fn passes(&self) -> usize {
        self.restarts * (1 + 2 * self.walk.steps)
    }
}
