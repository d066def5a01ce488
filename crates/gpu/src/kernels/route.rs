//! Launches `route.wgsl`: which experts each row goes to.

use crate::array::{Array, Routes};
use crate::gpu::Inner;
use crate::kernels::{Linear, linear, threads};
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
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
    let gate = linear(gpu, r, &Linear::new(&router.gate), x);
    let routes = Routes { ids: Array::empty(gpu, n, used), shares: Array::empty(gpu, n, used) };
    let given = router.table.as_ref().map(|table| {
        let mut ids: Vec<u32> =
            tokens.iter().flat_map(|&token| &table[token as usize * used..][..used]).copied().collect();
        ids.chunks_exact_mut(used).for_each(<[u32]>::sort_unstable);
        r.put(gpu, &ids)
    });
    let zeros = (given.is_none() && router.bias.is_none()).then(|| r.put(gpu, &vec![0; experts]));
    let last = match (&given, &router.bias, &zeros) {
        (Some(ids), _, _) => Binding::Read(ids.clone()),
        (None, Some(bias), _) => bias.read(),
        (None, None, zeros) => Binding::Read(zeros.clone().expect("made for this case")),
    };
    r.launch(
        gpu,
        threads("route").with("EXPERTS", experts).with("USED", used).when("TABLE", given.is_some()),
        &[gate.read(), routes.ids.write(), routes.shares.write(), last],
        &[experts as u32, router.scale.to_bits()],
        [n as u32, 1, 1],
    );
    routes
}
