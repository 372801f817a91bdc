//! Between a module's parameters and flat values.

use std::collections::HashMap;

use burn::{
    module::{ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{FloatDType, Gradients, Tensor},
};

/// Takes the gradients of a module's parameters, flat and in f32.
pub(super) struct TakeGradients<'a> {
    pub(super) place: &'a HashMap<ParamId, (usize, usize)>,
    pub(super) gradients: &'a mut Gradients,
    pub(super) taken: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for TakeGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.place.contains_key(&param.id)
            && let Some(gradient) = param.val().grad_remove(self.gradients)
        {
            let gradient = gradient.reshape([-1]).cast(FloatDType::F32);
            self.taken.insert(param.id, gradient);
        }
    }
}

/// Takes a module's parameters, flat.
pub(super) struct TakeValues<'a> {
    pub(super) place: &'a HashMap<ParamId, (usize, usize)>,
    pub(super) taken: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for TakeValues<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.place.contains_key(&param.id) {
            let value = param.val().without_autodiff().reshape([-1]);
            self.taken.insert(param.id, value);
        }
    }
}

/// Puts flat values in the place of a module's parameters.
pub(super) struct PutValues {
    pub(super) updated: HashMap<ParamId, Tensor<1>>,
    /// Whether a value takes the number format of the one it replaces.
    pub(super) rounds: bool,
}

impl ModuleMapper for PutValues {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.updated.remove(&param.id) {
            None => param,
            Some(value) => param.map(|old| {
                let value = value.reshape(old.shape());
                let value = if self.rounds {
                    value.cast(old.dtype())
                } else {
                    value
                };
                value.autodiff().require_grad()
            }),
        }
    }
}
