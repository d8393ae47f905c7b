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
        let value = self.value(output);
        match upstream {
            Some(upstream) if upstream.shape() == value.shape() => self.backward_from(output, upstream),
            Some(other) => wrong(format!("{:?}", value.shape()), other.shape()),
            None if value.len() == 1 => {
                self.backward_from(output, ops::fill::full(&self.device, value.shape(), 1.0)?)
            }
            None => wrong("a scalar loss".into(), value.shape()),
        }
    }

    /// Gradients of `sum(upstream * output)`, for an upstream gradient of the output's shape.
    pub fn backward_from<T: Real>(&self, output: Var<T>, upstream: Tensor<T>) -> Result<Gradients> {
        let (nodes, output) = (self.nodes.borrow(), output.0.0);
        let entry = |node: &Node| Entry { grad: None, masked: false, pending: node.uses };
        let entries = nodes[..=output].iter().map(entry).collect();
        let mut sink = Sink { device: &self.device, nodes: &nodes, entries };
        if nodes[output].needs_grad {
            sink.entries[output].grad = Some(Box::new(upstream));
        }
        for index in (0..=output).rev() {
            if let Some(backward) = &nodes[index].backward {
                let _layer = self.device.reopen(nodes[index].layer.as_ref());
                backward(NodeId(index), &mut sink)?;
            }
        }
        Ok(Gradients(sink.entries.into_iter().map(|entry| entry.grad).collect()))
    }
}

impl Node {
    fn value<T: Real>(&self) -> &Tensor<T> {
        self.value.downcast_ref().unwrap_or_else(|| unreachable!("a released value was read"))
    }
}

/// Where a backward rule puts the gradients of its parents.
pub struct Sink<'a> {
    device: &'a Device,
    nodes: &'a [Node],
    entries: Vec<Entry>,
}

/// The gradient of a node while its contributions come in.
struct Entry {
    /// A tensor of the type of the node's value.
    grad: Option<Box<dyn Any>>,
    /// Whether the node's ReLU mask has been applied to the whole sum.
    masked: bool,
    /// Contributions that are still to come.
    pending: usize,
}

/// The place for a contribution to a gradient, and the mask that the whole sum is to get.
pub struct MaskedSlot<'a, T: Real = f32> {
    pub into: &'a mut Buffer<T>,
    /// Whether to add to `into`; else it holds garbage.
    pub accumulate: bool,
    /// Zero the sum where these bits are.
    pub mask: Option<Rc<Buffer<u8>>>,
}

impl Sink<'_> {
    /// The gradient of a node, taken out: an inner one is not needed any more once it has been passed on. It
    /// is zero where the node's ReLU was.
    fn take_masked<T: Real>(&mut self, node: NodeId) -> Result<Option<Tensor<T>>> {
        let (node, entry) = (&self.nodes[node.0], &mut self.entries[node.0]);
        let Some(gradient) = entry.grad.take().and_then(|gradient| gradient.downcast().ok()) else {
            return Ok(None);
        };
        let gradient: Tensor<T> = match &node.relu_mask {
            Some(mask) if !entry.masked => ops::relu::mask_gradient(&gradient, mask)?,
            _ => *gradient,
        };
        if node.retains_grad {
            entry.grad = Some(Box::new(gradient.clone()));
        }
        Ok(Some(gradient))
    }

    /// The buffer for the gradient of `parent` and whether the kernel adds to it (else it writes; the content
    /// is garbage), or `None` when this gradient is not wanted.
    pub fn slot<T: Real>(&mut self, parent: Var<T>) -> Result<Option<(&mut Buffer<T>, bool)>> {
        Ok(self.slot_masked(parent, false)?.map(|slot| (slot.into, slot.accumulate)))
    }

    /// [`Sink::slot`] for a rule that, if it `can_mask`, may get the ReLU mask of `parent` to apply. Only the
    /// last contribution gets it, since the mask is for the sum of all.
    pub fn slot_masked<T: Real>(
        &mut self,
        parent: Var<T>,
        can_mask: bool,
    ) -> Result<Option<MaskedSlot<'_, T>>> {
        let (node, entry) = (&self.nodes[parent.0.0], &mut self.entries[parent.0.0]);
        if !node.needs_grad {
            return Ok(None);
        }
        entry.arrive();
        let mask = node.relu_mask.clone().filter(|_| can_mask && entry.pending == 0);
        entry.masked = mask.is_some();
        let accumulate = entry.grad.is_some();
        if entry.grad.is_none() {
            let _kind = node.backward.is_none().then(|| self.device.scope(Range::Gradient));
            entry.grad = Some(Box::new(Tensor::<T>::uninit(self.device, &node.shape)?));
        }
        match entry.gradient_mut::<T>() {
            Some(gradient) => Ok(Some(MaskedSlot { into: gradient.make_mut()?, accumulate, mask })),
            None => Ok(None),
        }
    }

    /// Whether a gradient of `parent` is wanted.
    pub fn wants(&self, parent: impl Into<NodeId>) -> bool {
        self.nodes[parent.into().0].needs_grad
    }

    /// Adds `gradient` to the gradient of `parent`; the first contribution is shared instead of copied.
    pub fn pass<T: Real>(&mut self, parent: Var<T>, gradient: &Tensor<T>) -> Result<()> {
        let (node, entry) = (&self.nodes[parent.0.0], &mut self.entries[parent.0.0]);
        if !node.needs_grad {
            return Ok(());
        }
        let gradient = gradient.reshape(&node.shape)?;
        entry.arrive();
        match entry.gradient_mut::<T>() {
            Some(sum) => ops::add::accumulate(sum, &gradient),
            None => {
                entry.grad = Some(Box::new(gradient));
                Ok(())
            }
        }
    }
}

impl Entry {
    fn gradient_mut<T: Real>(&mut self) -> Option<&mut Tensor<T>> {
        self.grad.as_mut()?.downcast_mut()
    }

    /// Counts a contribution. It is not masked, so neither is the sum any more; masking a part of it twice
    /// does no harm.
    fn arrive(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.masked = false;
    }
}

/// The gradients of leaves after [`Tape::backward`].
pub struct Gradients(Vec<Option<Box<dyn Any>>>);

impl Gradients {
    /// The gradient of a leaf; `None` when the output does not depend on it or no gradient was
    /// wanted.
    pub fn get<T: Real>(&self, leaf: Var<T>) -> Option<&Tensor<T>> {
        self.0.get(leaf.0.0)?.as_ref()?.downcast_ref()
    }

    /// Takes the gradient of a leaf out.
    pub fn take<T: Real>(&mut self, leaf: Var<T>) -> Option<Tensor<T>> {
        self.0.get_mut(leaf.0.0)?.take()?.downcast().ok().map(|gradient| *gradient)
    }
}
