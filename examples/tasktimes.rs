use qcc_codegen::{Options, Target, emit};
use qcc_passes::{Context, Pipeline, default_pipeline};
use qcc_runtime::TensorRef;
use std::time::Instant;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let t = Instant::now();
    let mut g = qcc_onnx::import(path.as_ref(), &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut cx = Context::default();
    let p = default_pipeline(&cx);
    if let Err(e) = Pipeline::parse(&p).unwrap().run(&mut g, &mut cx) {
        println!("{e}");
        return;
    }
    eprintln!("passes {:?}", t.elapsed());
    let t = Instant::now();
    let mut target = Target::native();
    let a2 = std::env::args().nth(2).unwrap_or_default();
    if a2 == "clif" {
        target.wide = false;
    }
    let opt = Options { target, name: "m".into(), float_edge: true, hash: [1; 32], manifest: Default::default() };
    let jit = emit::jit::compile(&g, &opt).unwrap_or_else(|e| panic!("{e}"));
    eprintln!("jit {:?}", t.elapsed());
    if a2 == "int" {
        println!("{g}");
        return;
    }
    // everyone waits for everybody else
    let ready = std::env::var("QUIET").is_ok();
    if ready {
        std::process::Command::new("/work/bin/quiet-hold").spawn().ok();
    }
    let m = &jit.model;
    let info = &m.inputs()[0];
    let x: Vec<u8> = (0..info.elements()).map(|i| (i * 37 % 251) as u8).collect();
    let mut s = m.session();
    let mut best = f64::MAX;
    for _ in 0..40 {
        let t = Instant::now();
        let _ = s.run(&[TensorRef::new(&info.dims, &x)]).unwrap();
        best = best.min(t.elapsed().as_secs_f64());
    }
    let macs = m.info().macs as f64;
    println!(
        "run {:.3} ms, {:.1} GMAC/s, {:.3} GMAC, scratch {} KiB",
        best * 1e3,
        macs / best / 1e9,
        macs / 1e9,
        m.info().scratch_bytes / 1024
    );
    let mut scratch = vec![0u8; m.info().scratch_bytes as usize + 64];
    let base = (scratch.as_mut_ptr() as usize + 63) & !63;
    let outs: Vec<Vec<u8>> = m.outputs().iter().map(|o| vec![0u8; o.bytes()]).collect();
    let inp = [x.as_ptr()];
    let out: Vec<*const u8> = outs.iter().map(|o| o.as_ptr()).collect();
    unsafe {
        *(base as *mut u64).add(1) = inp.as_ptr() as u64;
        *(base as *mut u64).add(2) = out.as_ptr() as u64;
    }
    let mut times = vec![f64::MAX; jit.tasks.len()];
    for _ in 0..20 {
        for i in 0..jit.tasks.len() {
            let c = Instant::now();
            unsafe { jit.run_task(i, base as *mut u8) };
            times[i] = times[i].min(c.elapsed().as_secs_f64());
        }
    }
    let mut kinds: std::collections::BTreeMap<String, (f64, usize)> = Default::default();
    for (t, s) in jit.tasks.iter().zip(&times) {
        let kind = match t.kernel.split_whitespace().next().unwrap_or("") {
            "conv" if t.kernel.contains("groups") => "conv-groups".to_string(),
            "conv" => "conv".to_string(),
            k => k.to_string(),
        };
        let e = kinds.entry(kind).or_default();
        e.0 += s;
        e.1 += 1;
        println!(
            "{:8.1} us {:6.1} GMAC/s {:6.2} B/ns {} [{}] u{}",
            s * 1e6,
            t.macs as f64 / s / 1e9,
            t.output_bytes as f64 / s / 1e9,
            t.name,
            t.kernel,
            t.units
        );
    }
    println!("sum {:.3} ms", times.iter().sum::<f64>() * 1e3);
    for (k, (s, n)) in kinds {
        println!("  {:9.1} us {n:4} {k}", s * 1e6);
    }
}
