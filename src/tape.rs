//! Reverse-mode differentiation: a list of values, each with the rule that sends its gradient to its parents.
//!
//! Gradients flow only to leaves that asked for them and through nodes on the way: inside an attack the image
//! alone is such a leaf, so no weight gradient is ever computed. A backward rule adds to its parents'
//! gradients; the first contribution is written, not added, so that no buffer has to be cleared.
//!
//! A gradient has the type of its value: those of bf16 feature maps are bf16.

use crate::device::trace::Range;
use crate::device::{Buffer, Device, Real};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;
use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

mod sink;

use sink::Entry;
pub use sink::{MaskedSlot, SignStep, Sink, StepSlot};

/// A value on a tape, a [`Tensor<T>`].
pub struct Var<T: Real = f32>(NodeId, PhantomData<T>);

impl<T: Real> Clone for Var<T> {
    fn clone(&self) -> Var<T> {
        *self
    }
}
impl<T: Real> Copy for Var<T> {}
impl<T: Real> PartialEq for Var<T> {
    fn eq(&self, other: &Var<T>) -> bool {
        self.0 == other.0
    }
}
impl<T: Real> std::fmt::Debug for Var<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var({})", self.0.0)
    }
}

/// The place of a value of any type on its tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(usize);

impl<T: Real> From<Var<T>> for NodeId {
    fn from(var: Var<T>) -> NodeId {
        var.0
    }
}

/// The gradients of the parents of the node at this place, from its own.
type Backward = dyn Fn(NodeId, &mut Sink) -> Result<()>;

struct Node {
    /// A `Tensor<T>`, for the `Var<T>` of this node; nothing once it is released.
    value: Box<dyn Any>,
    shape: Vec<usize>,
    needs_grad: bool,
    backward: Option<Box<Backward>>,
    /// The bits of the ReLU that ends the operation: the backward rule wants a gradient that is zero where
    /// they are.
    relu_mask: Option<Rc<Buffer<u8>>>,
    /// How many operations read this value.
    uses: usize,
    /// Whether its gradient is kept although it is no leaf.
    retains_grad: bool,
    /// Of a leaf: the step that it makes in the place of keeping its gradient, where a kernel can do so.
    step: Option<SignStep>,
    /// The gradient of the only parent is that of this value, times these numbers for each channel.
    scaled: Option<(NodeId, Arc<Buffer<f32>>)>,
    /// The layer of the network that it is of, where somebody listens to the device.
    layer: Option<Arc<str>>,
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
    pub fn constant<T: Real>(&self, value: Tensor<T>) -> Var<T> {
        self.add(value, false, None, None)
    }

    /// A value whose gradient is wanted.
    pub fn leaf<T: Real>(&self, value: Tensor<T>) -> Var<T> {
        self.add(value, true, None, None)
    }

    /// Images whose gradient is wanted for this step alone: the kernel that computes the gradient may make
    /// the step and write [`Gradients::take_moved`] in its place.
    pub fn stepping_leaf(&self, images: Tensor, step: SignStep) -> Var {
        let leaf = self.leaf(images);
        self.nodes.borrow_mut()[leaf.0.0].step = Some(step);
        leaf
    }

    /// The result of an operation on `parents` with its backward rule, which gets the gradient of the result.
    /// Without a parent that needs a gradient the rule, and all that it saved, is dropped.
    pub fn push<T: Real>(
        &self,
        value: Tensor<T>,
        parents: &[impl Into<NodeId> + Copy],
        backward: impl Fn(&Tensor<T>, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var<T>> {
        self.push_masked(value, None, parents, backward)
    }

    /// [`Tape::push`] for an operation that ends in a ReLU with these mask bits: its rule gets a gradient
    /// that is already zero where the bit is. The operation that reads the result may apply the mask to the
    /// gradient it gives back (see [`Sink::slot_masked`]), which saves a pass over it.
    pub fn push_masked<T: Real>(
        &self,
        value: Tensor<T>,
        relu_mask: Option<Buffer<u8>>,
        parents: &[impl Into<NodeId> + Copy],
        backward: impl Fn(&Tensor<T>, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var<T>> {
        let needs_grad = parents.iter().any(|p| self.needs(*p));
        if !needs_grad {
            return Ok(self.add(value, false, None, relu_mask));
        }
        let mut nodes = self.nodes.borrow_mut();
        parents.iter().for_each(|p| nodes[(*p).into().0].uses += 1);
        drop(nodes);
        let rule = move |node: NodeId, sink: &mut Sink| match sink.take_masked::<T>(node)? {
            Some(gradient) => backward(&gradient, sink),
            None => Ok(()),
        };
        Ok(self.add(value, true, Some(Box::new(rule)), relu_mask))
    }

    /// Says that the gradient of `x`, the only parent of `node`, is that of `node` times `factor`, which
    /// repeats with the channels as the period: then a step of `x` need not wait for the rule of `node`.
    pub fn note_scaled(&self, node: Var, x: Var, factor: &Arc<Buffer<f32>>) {
        self.nodes.borrow_mut()[node.0.0].scaled = Some((x.0, factor.clone()));
    }

    fn add<T: Real>(
        &self,
        value: Tensor<T>,
        needs_grad: bool,
        backward: Option<Box<Backward>>,
        relu_mask: Option<Buffer<u8>>,
    ) -> Var<T> {
        let layer = self.device.open_layer();
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node {
            shape: value.shape().to_vec(),
            value: Box::new(value),
            needs_grad,
            backward,
            relu_mask: relu_mask.map(Rc::new),
            uses: 0,
            retains_grad: false,
            step: None,
            scaled: None,
            layer,
        });
        Var(NodeId(nodes.len() - 1), PhantomData)
    }

    /// Keeps the gradient of an inner value for [`Gradients`]. Where a ReLU made the value, it is the
    /// gradient of that ReLU's input.
    pub fn retain_grad(&self, node: impl Into<NodeId>) {
        self.nodes.borrow_mut()[node.into().0].retains_grad = true;
    }

    /// Lets go of a value that no operation reads any more: its memory is free unless a backward rule has a
    /// share in it. Gradients flow through it as before.
    pub fn release(&self, node: impl Into<NodeId>) {
        self.nodes.borrow_mut()[node.into().0].value = Box::new(());
    }

    /// The value (shared, not copied), which must not have been released.
    pub fn value<T: Real>(&self, var: Var<T>) -> Tensor<T> {
        self.nodes.borrow()[var.0.0].value::<T>().clone()
    }

    /// Whether a gradient flows to or through this value.
    pub fn needs(&self, node: impl Into<NodeId>) -> bool {
        self.nodes.borrow()[node.into().0].needs_grad
    }

    /// The same value, cut off from what it was computed from.
    pub fn detach<T: Real>(&self, var: Var<T>) -> Var<T> {
        self.constant(self.value(var))
    }

    /// Gradients of `sum(upstream * output)`; `upstream` is 1 for a scalar output when `None`.
    pub fn backward(&self, output: Var, upstream: Option<Tensor>) -> Result<Gradients> {
        let _backward = self.device.scope(Range::Backward);
        let wrong = |expected: String, got: &[usize]| {
            Err(Error::Shape { op: "backward", expected, got: got.to_vec() })
        };
        let (value, output) = (self.value(output), output.0.0);
        let upstream = match upstream {
            Some(upstream) if upstream.shape() == value.shape() => upstream,
            Some(other) => return wrong(format!("{:?}", value.shape()), other.shape()),
            None if value.len() == 1 => ops::fill::full(&self.device, value.shape(), 1.0)?,
            None => return wrong("a scalar loss".into(), value.shape()),
        };
        self.propagate(output, |_| Ok(Entry::new(upstream)))
    }

    /// [`Tape::backward`] from maps whose gradient, of a loss that is not on the tape, a kernel of its own
    /// computes: `gradient` gets them and the ReLU mask to apply, if it `can_mask`.
    pub fn backward_from<T: Real>(
        &self,
        maps: Var<T>,
        can_mask: bool,
        gradient: impl FnOnce(&Tensor<T>, Option<&Buffer<u8>>) -> Result<Tensor<T>>,
    ) -> Result<Gradients> {
        let _backward = self.device.scope(Range::Backward);
        self.propagate(maps.0.0, |node| {
            let mask = node.relu_mask.as_deref().filter(|_| can_mask);
            let gradient = gradient(node.value::<T>(), mask)?;
            Ok(Entry { masked: mask.is_some(), ..Entry::new(gradient) })
        })
    }

    /// Runs the rules from the node at `output` on, whose gradient is `upstream`, if it needs one.
    fn propagate(&self, output: usize, upstream: impl FnOnce(&Node) -> Result<Entry>) -> Result<Gradients> {
        let nodes = self.nodes.borrow();
        let mut sink = Sink::new(&self.device, &nodes, output);
        if nodes[output].needs_grad {
            sink.entries[output] = upstream(&nodes[output])?;
        }
        for index in (0..=output).rev() {
            if let Some(backward) = &nodes[index].backward {
                let _layer = self.device.reopen(nodes[index].layer.as_ref());
                backward(NodeId(index), &mut sink)?;
            }
        }
        Ok(Gradients(sink.entries))
    }
}

impl Node {
    fn value<T: Real>(&self) -> &Tensor<T> {
        self.value.downcast_ref().unwrap_or_else(|| unreachable!("a released value was read"))
    }
}

/// The gradients of leaves after [`Tape::backward`].
pub struct Gradients(Vec<Entry>);

impl Gradients {
    /// The gradient of a leaf; `None` when the output does not depend on it or no gradient was
    /// wanted.
    pub fn get<T: Real>(&self, leaf: Var<T>) -> Option<&Tensor<T>> {
        let entry = self.0.get(leaf.0.0).filter(|entry| !entry.moved)?;
        entry.grad.as_ref()?.downcast_ref()
    }

    /// Takes the gradient of a leaf out.
    pub fn take<T: Real>(&mut self, leaf: Var<T>) -> Option<Tensor<T>> {
        self.take_if(leaf, false)
    }

    /// Takes the images of a [`Tape::stepping_leaf`] out after their step; `None` when there is a gradient to
    /// be stepped along, or none.
    pub fn take_moved(&mut self, leaf: Var) -> Option<Tensor> {
        self.take_if(leaf, true)
    }

    fn take_if<T: Real>(&mut self, leaf: Var<T>, moved: bool) -> Option<Tensor<T>> {
        let entry = self.0.get_mut(leaf.0.0).filter(|entry| entry.moved == moved)?;
        entry.grad.take()?.downcast().ok().map(|tensor| *tensor)
    }
}
