//! Reverse-mode differentiation: a list of values, each with the rule that sends its gradient to its parents.
//!
//! Gradients flow only to leaves that asked for them and through nodes on the way: inside an attack the image
//! alone is such a leaf, so no weight gradient is ever computed. A backward rule adds to its parents'
//! gradients; the first contribution is written, not added, so that no buffer has to be cleared.

use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;
use std::cell::RefCell;
use std::rc::Rc;

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Var(usize);

type Backward = dyn Fn(&Tensor, &mut Sink) -> Result<()>;

struct Node {
    value: Tensor,
    needs_grad: bool,
    backward: Option<Box<Backward>>,
    /// The bits of the ReLU that ends the operation: the gradient counts only where they are set.
    mask: Option<Rc<Buffer<u8>>>,
    /// How many operations read this value.
    uses: usize,
}

/// The record of one or several forward passes.
pub struct Tape {
    device: Device,
    nodes: RefCell<Vec<Node>>,
}

impl Tape {
    pub fn new(device: &Device) -> Tape {
        Tape { device: device.clone(), nodes: RefCell::default() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A value that is not differentiated.
    pub fn constant(&self, value: Tensor) -> Var {
        self.add(Node { value, needs_grad: false, backward: None, mask: None, uses: 0 })
    }

    /// A value whose gradient is wanted.
    pub fn leaf(&self, value: Tensor) -> Var {
        self.add(Node { value, needs_grad: true, backward: None, mask: None, uses: 0 })
    }

    /// The result of an operation on `parents` with its backward rule, which gets the gradient of the result.
    /// Without a parent that needs a gradient the rule, and all that it saved, is dropped.
    pub fn push(
        &self,
        value: Tensor,
        parents: &[Var],
        backward: impl Fn(&Tensor, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var> {
        self.push_masked(value, None, parents, backward)
    }

    /// [`Tape::push`] for an operation that ends in a ReLU with these mask bits: its rule gets a gradient
    /// that is already zero where the bit is. The operation behind it may apply the mask on the way (see
    /// [`Sink::slot_masked`]), which saves a pass over the gradient.
    pub fn push_masked(
        &self,
        value: Tensor,
        mask: Option<Buffer<u8>>,
        parents: &[Var],
        backward: impl Fn(&Tensor, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var> {
        let needs_grad = parents.iter().any(|p| self.needs(*p));
        let backward: Option<Box<Backward>> = if needs_grad { Some(Box::new(backward)) } else { None };
        if needs_grad {
            let mut nodes = self.nodes.borrow_mut();
            parents.iter().for_each(|p| nodes[p.0].uses += 1);
        }
        Ok(self.add(Node { value, needs_grad, backward, mask: mask.map(Rc::new), uses: 0 }))
    }

    fn add(&self, node: Node) -> Var {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(node);
        Var(nodes.len() - 1)
    }

    /// The value (shared, not copied).
    pub fn value(&self, var: Var) -> Tensor {
        self.nodes.borrow()[var.0].value.clone()
    }

    /// Whether a gradient of this value is wanted by somebody.
    pub fn needs(&self, var: Var) -> bool {
        self.nodes.borrow()[var.0].needs_grad
    }

    /// The same value, cut off from what it was computed from.
    pub fn detach(&self, var: Var) -> Var {
        self.constant(self.value(var))
    }

    /// Gradients of `sum(upstream * output)`; `upstream` is 1 for a scalar output when `None`.
    pub fn backward(&self, output: Var, upstream: Option<Tensor>) -> Result<Gradients> {
        let nodes = self.nodes.borrow();
        let value = &nodes[output.0].value;
        let upstream = match upstream {
            Some(upstream) if upstream.shape() == value.shape() => upstream,
            Some(other) => {
                return Err(Error::Shape {
                    op: "backward",
                    expected: format!("{:?}", value.shape()),
                    got: other.shape().to_vec(),
                });
            }
            None if value.len() == 1 => ops::fill::full(&self.device, value.shape(), 1.0)?,
            None => {
                return Err(Error::Shape {
                    op: "backward",
                    expected: "a scalar loss".into(),
                    got: value.shape().to_vec(),
                });
            }
        };
        let mut sink = Sink {
            nodes: &nodes,
            grads: (0..=output.0).map(|_| None).collect(),
            left: nodes[..=output.0].iter().map(|n| n.uses).collect(),
            masked: vec![false; output.0 + 1],
        };
        if nodes[output.0].needs_grad {
            sink.grads[output.0] = Some(upstream);
        }
        for index in (0..=output.0).rev() {
            let Some(backward) = &nodes[index].backward else { continue };
            // An inner gradient is not needed any more once it has been passed on.
            if let Some(mut grad) = sink.grads[index].take() {
                if let (Some(mask), false) = (&nodes[index].mask, sink.masked[index]) {
                    grad = ops::relu::mask_gradient(&grad, mask)?;
                }
                backward(&grad, &mut sink)?;
            }
        }
        Ok(Gradients(sink.grads))
    }
}

/// Where a backward rule puts the gradients of its parents.
pub struct Sink<'a> {
    nodes: &'a [Node],
    grads: Vec<Option<Tensor>>,
    /// Contributions to each gradient that are still to come.
    left: Vec<usize>,
    /// Whether the mask of a node has been applied to all of its gradient.
    masked: Vec<bool>,
}

impl Sink<'_> {
    /// The buffer for the gradient of `parent` and the `accumulate` flag for the kernel (0: write, the
    /// content is garbage; 1: add), or `None` when nobody wants this gradient.
    pub fn slot(&mut self, parent: Var) -> Result<Option<(&mut Buffer<f32>, i32)>> {
        Ok(self.slot_masked(parent, false)?.map(|(buffer, accumulate, _)| (buffer, accumulate)))
    }

    /// [`Sink::slot`], and, if the rule `can_mask` and this is the last contribution, the mask that it must
    /// apply to the whole sum.
    #[allow(clippy::type_complexity)]
    pub fn slot_masked(
        &mut self,
        parent: Var,
        can_mask: bool,
    ) -> Result<Option<(&mut Buffer<f32>, i32, Option<Rc<Buffer<u8>>>)>> {
        let node = &self.nodes[parent.0];
        if !node.needs_grad {
            return Ok(None);
        }
        self.left[parent.0] = self.left[parent.0].saturating_sub(1);
        let mask = node.mask.clone().filter(|_| can_mask && self.left[parent.0] == 0);
        // A contribution that comes without the mask undoes an earlier masking; masking the sum again is then
        // right.
        self.masked[parent.0] = mask.is_some();
        let slot = &mut self.grads[parent.0];
        let accumulate = slot.is_some() as i32;
        let tensor = match slot {
            Some(tensor) => tensor,
            None => slot.insert(Tensor::uninit(node.value.device(), node.value.shape())?),
        };
        Ok(Some((tensor.make_mut()?, accumulate, mask)))
    }

    /// Whether a gradient of `parent` is wanted.
    pub fn wants(&self, parent: Var) -> bool {
        self.nodes[parent.0].needs_grad
    }

    /// Adds `gradient` to the gradient of `parent`; the first contribution is shared instead of copied.
    pub fn pass(&mut self, parent: Var, gradient: &Tensor) -> Result<()> {
        let node = &self.nodes[parent.0];
        if !node.needs_grad {
            return Ok(());
        }
        let gradient = gradient.reshape(node.value.shape())?;
        self.left[parent.0] = self.left[parent.0].saturating_sub(1);
        self.masked[parent.0] = false;
        match &mut self.grads[parent.0] {
            Some(sum) => ops::add::accumulate(sum, &gradient),
            empty => {
                *empty = Some(gradient);
                Ok(())
            }
        }
    }
}

/// The gradients of leaves after [`Tape::backward`].
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// The gradient of a leaf; `None` when the output does not depend on it or it did not ask.
    pub fn get(&self, leaf: Var) -> Option<&Tensor> {
        self.0.get(leaf.0)?.as_ref()
    }

    /// Takes the gradient of a leaf out.
    pub fn take(&mut self, leaf: Var) -> Option<Tensor> {
        self.0.get_mut(leaf.0)?.take()
    }
}
