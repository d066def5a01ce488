//! Which experts each row goes to: launches `route.wgsl`, or has `linear_vec.wgsl` choose after the product.

use crate::array::{Array, Routes};
use crate::gpu::Inner;
use crate::kernels::linear::{Choice, routed};
use crate::kernels::{Linear, linear, threads};
use crate::ops::Weights;
use crate::recorder::{Binding, OfTokens, Recorder};
use model::weights::Router;

/// Chooses experts for every row of x.
pub(crate) fn route(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    tokens: &[u32],
    router: &Router<Weights>,
) -> Routes {
    let (n, used, experts) = (x.n, router.used, router.gate.rows);
    let routes = Routes { ids: Array::empty(gpu, n, used), shares: Array::empty(gpu, n, used) };
    let given = match (&router.table, &router.bias) {
        (Some(table), _) => Binding::Read(r.put_of(gpu, OfTokens::Rows(table.clone(), used), tokens)),
        (None, Some(bias)) => bias.read(),
        (None, None) => Binding::Read(r.put(gpu, &vec![0; experts])),
    };
    let (table, scale) = (router.table.is_some(), router.scale);
    let bindings = [routes.ids.write(), routes.shares.write(), given];
    let choice = Choice { bindings, used, scale, table };
    if routed(gpu, r, x, &router.gate, &choice) {
        return routes;
    }
    let gate = linear(gpu, r, &Linear::new(&router.gate), x);
    let bindings: Vec<_> = [gate.read()].into_iter().chain(choice.bindings).collect();
    let variant = threads("route").with("EXPERTS", experts).with("USED", used).when("TABLE", table);
    r.launch(gpu, variant, &bindings, &[scale.to_bits()], [n as u32, 1, 1]);
    routes
}
