//! The parameters and buffers of a network, in PyTorch's order and under PyTorch's names.

use super::init::Init;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::batch_norm;
use crate::ops::conv2d::{Filter, Precision};
use crate::ops::conv2d_folded::Folded;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The purpose of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A convolution's filter: `[Cout,kh,kw,Cin]` on the device, `[Cout,Cin,kh,kw]` in files.
    Filter,
    /// Another trained parameter: a linear layer's `[out,in]` weight, a bias, a batch norm's weight.
    Weight,
    /// A running statistic: saved, not trained.
    Buffer,
}

/// A named tensor.
pub struct Param {
    pub name: String,
    pub role: Role,
    pub value: Tensor,
    /// SGD's momentum, once there is one.
    pub momentum: Option<Tensor>,
}

/// The place of a parameter in its [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParamId(usize);

/// All parameters and buffers of a network.
pub struct Params {
    list: Vec<Param>,
    /// The copies of filters that convolutions read; dropped, and with them their share in the values, when a
    /// parameter is to change.
    filters: BTreeMap<ParamId, Rc<Filter>>,
    /// Filters with a batch norm folded in; dropped when a running statistic changes too.
    folded: BTreeMap<ParamId, Rc<Folded>>,
    /// The batch norms that can be folded into the convolutions before them.
    norms: Vec<(ParamId, NormIds)>,
    precision: Precision,
}

/// The parameters and buffers of a batch norm.
#[derive(Clone, Copy)]
pub struct NormIds {
    pub weight: ParamId,
    pub bias: ParamId,
    pub mean: ParamId,
    pub var: ParamId,
}

impl Params {
    pub(super) fn new() -> Params {
        Params {
            list: Vec::new(),
            filters: BTreeMap::new(),
            folded: BTreeMap::new(),
            norms: Vec::new(),
            precision: Precision::F32,
        }
    }

    /// Adds a tensor with its initial value; `shape` is the device's.
    pub(super) fn add(
        &mut self,
        device: &Device,
        name: String,
        role: Role,
        shape: &[usize],
        init: Init,
    ) -> Result<ParamId> {
        let values = init.values(&name, shape.iter().product());
        self.list.push(Param {
            name,
            role,
            value: Tensor::from_slice(device, shape, &values)?,
            momentum: None,
        });
        Ok(ParamId(self.list.len() - 1))
    }

    /// The value (shared).
    pub fn value(&self, id: ParamId) -> Tensor {
        self.list[id.0].value.clone()
    }

    /// Where the values and momenta lie in device memory.
    pub fn addresses(&self) -> Vec<u64> {
        let tensors = self.list.iter().flat_map(|param| [Some(&param.value), param.momentum.as_ref()]);
        tensors.flatten().map(|tensor| tensor.address()).collect()
    }

    /// Forgets the copies of filters: the next passes make them anew.
    pub fn drop_copies(&mut self) {
        self.filters.clear();
        self.folded.clear();
    }

    /// Two buffers to update in place (the running statistics of one batch norm).
    pub(super) fn pair_mut(&mut self, first: ParamId, second: ParamId) -> Option<(&mut Tensor, &mut Tensor)> {
        self.folded.clear();
        let (head, tail) = self.list.split_at_mut(second.0);
        Some((&mut head.get_mut(first.0)?.value, &mut tail.first_mut()?.value))
    }

    /// Everything, in PyTorch's order.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
    }

    /// The trained parameters, in that order.
    pub fn trained(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        let all = self.list.iter().enumerate().map(|(index, param)| (ParamId(index), param));
        all.filter(|(_, param)| param.role != Role::Buffer)
    }

    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    /// The name of the layer that a parameter is of: `layer1.0.conv1` of `layer1.0.conv1.weight`.
    pub(super) fn layer(&self, id: ParamId) -> &str {
        let name = &self.list[id.0].name;
        name.rsplit_once('.').map_or(name, |(layer, _)| layer)
    }

    /// One parameter or buffer, to be changed.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Param {
        self.drop_copies();
        &mut self.list[id.0]
    }

    /// Everything, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.drop_copies();
        self.list.iter_mut()
    }

    /// The parameters with gradients, which are in the order of [`Params::iter`], to be changed.
    pub fn with_gradients<'a>(
        &'a mut self,
        gradients: &'a [(ParamId, Tensor)],
    ) -> impl Iterator<Item = (&'a mut Param, &'a Tensor)> {
        let mut left = gradients.iter().peekable();
        let paired = move |(index, param)| {
            left.next_if(|(id, _)| id.0 == index).map(|(_, gradient)| (param, gradient))
        };
        self.iter_mut().enumerate().filter_map(paired)
    }

    /// The precision of convolutions.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn set_precision(&mut self, precision: Precision) {
        if precision != self.precision {
            self.precision = precision;
            self.drop_copies();
        }
    }

    /// The copies of a filter for convolutions; those of all filters are made once per change of weights.
    pub(super) fn filter(&mut self, weight: ParamId) -> Result<Rc<Filter>> {
        if self.filters.is_empty() {
            let filters = self.list.iter().enumerate().filter(|(_, param)| param.role == Role::Filter);
            let filter = |param: &Param| Rc::new(Filter::new(param.value.clone(), self.precision));
            self.filters = filters.map(|(index, param)| (ParamId(index), filter(param))).collect();
            Filter::pack_all(self.filters.values().map(|filter| &**filter))?;
        }
        let known = self.filters.get(&weight).cloned();
        known.ok_or_else(|| Error::Internal { what: format!("{} is no filter", self.list[weight.0].name) })
    }

    /// Says that this batch norm comes after the convolution with this weight, and nothing between them.
    pub(super) fn pair(&mut self, weight: ParamId, norm: NormIds) {
        self.norms.push((weight, norm));
    }

    /// A filter with the batch norm after it folded in; those of all are made once per change of any value.
    pub(super) fn folded(&mut self, device: &Device, weight: ParamId) -> Result<Rc<Folded>> {
        if self.folded.is_empty() {
            let running = |(_, norm): &(ParamId, NormIds)| {
                let [weight, bias, mean, var] =
                    [norm.weight, norm.bias, norm.mean, norm.var].map(|id| self.value(id));
                batch_norm::Running { weight, bias, mean, var }
            };
            let running: Vec<batch_norm::Running> = self.norms.iter().map(running).collect();
            let folded = batch_norm::fold(device, &running)?;
            for (&(weight, _), (scale, shift)) in self.norms.iter().zip(folded) {
                let filter = Filter::scaled(self.value(weight), scale, self.precision)?;
                self.folded.insert(weight, Rc::new(Folded { filter, shift }));
            }
            Filter::pack_all(self.folded.values().map(|folded| &folded.filter))?;
        }
        let known = self.folded.get(&weight).cloned();
        let name = &self.list[weight.0].name;
        known.ok_or_else(|| Error::Internal { what: format!("{name} has no batch norm after it") })
    }

    /// Number of trained numbers.
    pub fn count(&self) -> usize {
        self.list.iter().filter(|p| p.role != Role::Buffer).map(|p| p.value.len()).sum()
    }

    /// Puts all trained parameters on a tape as leaves.
    pub fn leaves(&self, tape: &Tape) -> Leaves {
        Leaves(
            self.list.iter().map(|p| (p.role != Role::Buffer).then(|| tape.leaf(p.value.clone()))).collect(),
        )
    }
}

/// The parameters of a network on one tape. All passes on that tape share them, so that their gradients add
/// up.
pub struct Leaves(Vec<Option<Var>>);

impl Leaves {
    /// The leaf of a trained parameter; `None` for a buffer.
    pub fn get(&self, id: ParamId) -> Option<Var> {
        self.0.get(id.0).copied().flatten()
    }

    /// The gradients of the parameters that the loss depends on, in the order of [`Params::iter`].
    pub fn gradients(&self, gradients: &mut Gradients) -> Vec<(ParamId, Tensor)> {
        let gradient = |(i, leaf): (usize, &Option<Var>)| Some((ParamId(i), gradients.take((*leaf)?)?));
        self.0.iter().enumerate().filter_map(gradient).collect()
    }
}
