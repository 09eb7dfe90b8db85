//! Running a model: everything is checked before its code is entered, and nothing is allocated from the second run on.

use crate::abi::{QccPool, code};
use crate::arena::Arena;
use crate::host::HostThreads;
use crate::info::{TensorInfo, real_tensors};
use crate::model::Model;
use crate::pool::Pool;
use crate::tensor::{DType, Tensor, TensorRef};
use std::ffi::c_void;
use std::ops::Deref;
use std::sync::Arc;

/// Something that a session borrows, or owns a share of.
enum Held<'m, T> {
    Borrowed(&'m T),
    Shared(Arc<T>),
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Held::Borrowed(held) => held,
            Held::Shared(held) => held,
        }
    }
}

/// Threads that a session runs on beside its caller's.
enum Threads<'m> {
    Pool(Held<'m, Pool>),
    Host(HostThreads<'m>),
}

impl Threads<'_> {
    fn as_abi(&self) -> QccPool {
        match self {
            Threads::Pool(pool) => pool.as_abi(),
            Threads::Host(host) => host.as_abi(),
        }
    }

    /// To be called once the model's code has been left.
    fn resume_panic(&self) {
        match self {
            Threads::Pool(_) => {}
            Threads::Host(host) => host.resume_panic(),
        }
    }
}

/// Scratch memory, and perhaps threads, for runs of one model one after another.
pub struct Session<'m> {
    model: Held<'m, Model>,
    threads: Option<Threads<'m>>,
    scratch: Arena,
    slots: Slots,
}

/// Why a run was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Too many or too few tensors.
    #[error("the model has {expected} {what}, {found} given")]
    Count {
        /// `inputs` or `outputs`.
        what: &'static str,
        /// Number in the model.
        expected: usize,
        /// Number given.
        found: usize,
    },
    /// Another element type.
    #[error("`{name}` is {expected}, {found} given")]
    DType {
        /// Name of the tensor.
        name: String,
        /// Type in the model, `f32` for a run over the float interface.
        expected: DType,
        /// Type given.
        found: DType,
    },
    /// Another shape.
    #[error("`{name}` has shape {expected:?}, {found:?} given")]
    Dims {
        /// Name of the tensor.
        name: String,
        /// Shape in the model.
        expected: Vec<usize>,
        /// Shape given.
        found: Vec<usize>,
    },
    /// Data shorter or longer than its shape.
    #[error("`{name}` takes {expected} bytes, {found} given")]
    Length {
        /// Name of the tensor.
        name: String,
        /// Bytes of its shape.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Data that does not start at a multiple of its element size.
    #[error("the data of `{name}` is not aligned to {align} bytes")]
    Alignment {
        /// Name of the tensor.
        name: String,
        /// Size of an element.
        align: usize,
    },
    /// Compiled with `--io=int`.
    #[error("the model has no float interface: run it with integers, or compile it with `--io=float`")]
    NoFloatEdge,
    /// The model's code returned an error of [`code`].
    #[error("the model returned {0} ({text})", text = describe(*.0))]
    Code(i32),
}

fn describe(error: i32) -> &'static str {
    match error {
        code::ERR_NULL => "null pointer",
        code::ERR_CPU => "a CPU feature is missing",
        code::ERR_ALIGN => "misaligned scratch",
        code::ERR_POOL => "unusable thread pool",
        _ => "unknown",
    }
}

/// The pointer arrays of a call, kept for their capacity.
#[derive(Default)]
struct Slots {
    inputs: Vec<*const c_void>,
    outputs: Vec<*mut c_void>,
}

// SAFETY: the pointers are used only within the call that writes them.
unsafe impl Send for Slots {}

/// Which pair of entry points a run takes.
#[derive(Clone, Copy, PartialEq)]
enum Io {
    Stored,
    Float,
}

impl Io {
    fn dtype(self, info: &TensorInfo) -> DType {
        if self == Io::Float { DType::F32 } else { info.dtype }
    }

    /// The tensors that a run takes or gives.
    fn tensors(self, infos: &[TensorInfo]) -> &[TensorInfo] {
        if self == Io::Float { real_tensors(infos) } else { infos }
    }
}

impl Model {
    /// Runs once on this thread, with stored integers in and out. [`Model::session`] saves the allocations of repeated runs.
    pub fn run(&self, inputs: &[TensorRef<'_>]) -> Result<Vec<Tensor>, RunError> {
        self.session().run(inputs)
    }

    /// Runs once on this thread, with every tensor as `f32`.
    pub fn run_f32(&self, inputs: &[TensorRef<'_>]) -> Result<Vec<Tensor>, RunError> {
        self.session().run_f32(inputs)
    }

    /// Scratch memory for runs one after another.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }
}

impl Session<'static> {
    /// A session that owns a share of its model: it can be kept in a structure, or sent to a thread, without the model beside it.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use qcc_runtime::{Model, Session};
    ///
    /// struct Classifier {
    ///     session: Session<'static>,
    /// }
    ///
    /// let model = Arc::new(Model::load("model.so")?);
    /// let first = Classifier { session: Session::shared(model.clone()) };
    /// let second = Classifier { session: Session::shared(model) };
    /// # drop((first, second));
    /// # Ok::<(), qcc_runtime::LoadError>(())
    /// ```
    pub fn shared(model: Arc<Model>) -> Session<'static> {
        Session::of(Held::Shared(model))
    }
}

impl<'m> Session<'m> {
    fn new(model: &'m Model) -> Self {
        Session::of(Held::Borrowed(model))
    }

    fn of(model: Held<'m, Model>) -> Self {
        let info = model.info();
        // Both were checked when the model was made.
        let size = |n: u64| usize::try_from(n).ok();
        let scratch = size(info.scratch_bytes).zip(size(info.scratch_align));
        let scratch = scratch
            .and_then(|(bytes, align)| Arena::with_align(bytes, align))
            .expect("a model's scratch is within the address space");
        Session { model, threads: None, scratch, slots: Slots::default() }
    }

    /// Runs over the threads of `pool`. The results are the same.
    #[must_use]
    pub fn with_pool(mut self, pool: &'m Pool) -> Self {
        self.threads = Some(Threads::Pool(Held::Borrowed(pool)));
        self
    }

    /// [`Session::with_pool`] with a share of the pool.
    #[must_use]
    pub fn with_shared_pool(mut self, pool: Arc<Pool>) -> Self {
        self.threads = Some(Threads::Pool(Held::Shared(pool)));
        self
    }

    /// Runs over threads of the host's own, as those of rayon. The results are the same.
    ///
    /// `broadcast` is called for every step that is worth sharing; it calls the work that it is given on any of its threads, usually once on each
    /// of `threads`, and returns when all these calls have ended. Work that nobody calls is done by the caller.
    ///
    /// ```no_run
    /// let model = qcc_runtime::Model::load("model.so")?;
    /// let session = model.session().with_host_threads(4, |work| {
    ///     std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    /// });
    /// # drop(session);
    /// # Ok::<(), qcc_runtime::LoadError>(())
    /// ```
    ///
    /// A panic of `broadcast` goes on in the call that runs the model, once that has been left.
    #[must_use]
    pub fn with_host_threads(
        mut self,
        threads: usize,
        broadcast: impl Fn(&(dyn Fn() + Sync)) + Send + Sync + 'm,
    ) -> Self {
        self.threads = Some(Threads::Host(HostThreads::new(threads, broadcast)));
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Stored integers in, new tensors of stored integers out.
    pub fn run(&mut self, inputs: &[TensorRef<'_>]) -> Result<Vec<Tensor>, RunError> {
        let mut outputs = self.outputs(Io::Stored);
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// [`Session::run`] into tensors that exist; allocates nothing from the second call on.
    pub fn run_into(&mut self, inputs: &[TensorRef<'_>], outputs: &mut [Tensor]) -> Result<(), RunError> {
        self.prepare(Io::Stored, inputs, outputs)?;
        let (entry, scratch) = (self.model.entry, self.scratch.as_mut_ptr().cast());
        let (input, output) = (self.slots.inputs.as_ptr(), self.slots.outputs.as_ptr());
        let status = match (&self.threads, entry.run_mt) {
            (Some(threads), Some(run_mt)) => {
                // SAFETY: `prepare` checked that the tensors are those that the model describes; the threads outlive the call.
                let status = unsafe { run_mt(input, output, scratch, &threads.as_abi()) };
                threads.resume_panic();
                status
            }
            // SAFETY: as above.
            _ => unsafe { (entry.run)(input, output, scratch) },
        };
        if status == code::OK { Ok(()) } else { Err(RunError::Code(status)) }
    }

    /// `f32` in, new `f32` tensors out, over the model's float interface.
    pub fn run_f32(&mut self, inputs: &[TensorRef<'_>]) -> Result<Vec<Tensor>, RunError> {
        let mut outputs = self.outputs(Io::Float);
        self.run_f32_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// [`Session::run_f32`] into tensors that exist; allocates nothing from the second call on.
    pub fn run_f32_into(&mut self, inputs: &[TensorRef<'_>], outputs: &mut [Tensor]) -> Result<(), RunError> {
        let entry = self.model.entry;
        let run_f32 = entry.run_f32.ok_or(RunError::NoFloatEdge)?;
        self.prepare(Io::Float, inputs, outputs)?;
        let scratch = self.scratch.as_mut_ptr().cast();
        let (input, output) = (self.slots.inputs.as_ptr().cast(), self.slots.outputs.as_ptr().cast());
        let status = match (&self.threads, entry.run_f32_mt) {
            (Some(threads), Some(run_mt)) => {
                // SAFETY: `prepare` checked all tensors as `f32` of the model's shapes; the threads outlive the call.
                let status = unsafe { run_mt(input, output, scratch, &threads.as_abi()) };
                threads.resume_panic();
                status
            }
            // SAFETY: as above.
            _ => unsafe { run_f32(input, output, scratch) },
        };
        if status == code::OK { Ok(()) } else { Err(RunError::Code(status)) }
    }

    fn outputs(&self, io: Io) -> Vec<Tensor> {
        io.tensors(self.model.outputs()).iter().map(|o| Tensor::zeros(io.dtype(o), &o.dims)).collect()
    }

    /// Checks all tensors against the description and lays down the pointer arrays.
    fn prepare(&mut self, io: Io, inputs: &[TensorRef<'_>], outputs: &mut [Tensor]) -> Result<(), RunError> {
        let (input_infos, output_infos) = (io.tensors(self.model.inputs()), io.tensors(self.model.outputs()));
        check_count("inputs", input_infos, inputs.len())?;
        check_count("outputs", output_infos, outputs.len())?;
        let Slots { inputs: input_slots, outputs: output_slots } = &mut self.slots;
        input_slots.clear();
        for (info, tensor) in input_infos.iter().zip(inputs) {
            check(info, io.dtype(info), *tensor)?;
            input_slots.push(tensor.bytes().as_ptr().cast());
        }
        output_slots.clear();
        for (info, tensor) in output_infos.iter().zip(outputs) {
            check(info, io.dtype(info), tensor.view())?;
            output_slots.push(tensor.bytes_mut().as_mut_ptr().cast());
        }
        Ok(())
    }
}

fn check_count(what: &'static str, infos: &[TensorInfo], found: usize) -> Result<(), RunError> {
    let expected = infos.len();
    if found == expected { Ok(()) } else { Err(RunError::Count { what, expected, found }) }
}

fn check(info: &TensorInfo, dtype: DType, tensor: TensorRef<'_>) -> Result<(), RunError> {
    let name = || info.name.clone();
    let expected = info.elements() * dtype.size();
    if tensor.dtype() != dtype {
        return Err(RunError::DType { name: name(), expected: dtype, found: tensor.dtype() });
    }
    if tensor.dims() != info.dims {
        return Err(RunError::Dims { name: name(), expected: info.dims.clone(), found: tensor.dims().to_vec() });
    }
    if tensor.bytes().len() != expected {
        return Err(RunError::Length { name: name(), expected, found: tensor.bytes().len() });
    }
    if !tensor.bytes().as_ptr().addr().is_multiple_of(dtype.size()) {
        return Err(RunError::Alignment { name: name(), align: dtype.size() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{QccPool, TaskFn};
    use crate::cpu::CpuFeatures;
    use crate::info::{ModelInfo, Quant};
    use crate::model::{EntryPoints, LoadError};

    const N: usize = 1000;

    /// A model written by hand: `y[i] = 2 * x[i]` in i16 for u8 `x`, through the scratch.
    unsafe extern "C" fn double(x: *const *const c_void, y: *const *mut c_void, scratch: *mut c_void) -> i32 {
        // SAFETY: called by a session, with the tensors and scratch of `info` below.
        unsafe {
            let (x, y, scratch) = ((*x).cast::<u8>(), (*y).cast::<i16>(), scratch.cast::<i16>());
            (0..N).for_each(|i| *scratch.add(i) = 2 * i16::from(*x.add(i)));
            y.copy_from_nonoverlapping(scratch, N);
        }
        code::OK
    }

    unsafe extern "C" fn double_mt(
        x: *const *const c_void,
        y: *const *mut c_void,
        _: *mut c_void,
        pool: *const QccPool,
    ) -> i32 {
        struct Arg(*const u8, *mut i16);
        unsafe extern "C" fn task(arg: *mut c_void, begin: usize, end: usize) {
            // SAFETY: `arg` is the `Arg` below; ranges are disjoint and within N.
            unsafe {
                let arg = &*arg.cast::<Arg>();
                (begin..end).for_each(|i| *arg.1.add(i) = 2 * i16::from(*arg.0.add(i)));
            }
        }
        // SAFETY: called by a session with a live pool.
        unsafe {
            let mut arg = Arg((*x).cast(), (*y).cast());
            let Some(parallel_for) = (*pool).parallel_for else { return code::ERR_POOL };
            parallel_for((*pool).ctx, task as TaskFn, (&raw mut arg).cast(), N);
        }
        code::OK
    }

    unsafe extern "C" fn double_f32(x: *const *const f32, y: *const *mut f32, _: *mut c_void) -> i32 {
        // SAFETY: called by a session, with N floats each.
        unsafe { (0..N).for_each(|i| *(*y).add(i) = 2.0 * *(*x).add(i)) }
        code::OK
    }

    unsafe extern "C" fn refuse(_: *const *const c_void, _: *const *mut c_void, _: *mut c_void) -> i32 {
        code::ERR_CPU
    }

    const ENTRY: EntryPoints =
        EntryPoints { run: double, run_mt: Some(double_mt), run_f32: Some(double_f32), run_f32_mt: None };

    fn info() -> ModelInfo {
        let tensor = |name: &str, dtype| TensorInfo {
            name: name.into(),
            dtype,
            dims: vec![10, 100],
            quant: Some(Quant { scale: 0.5, zero_point: 0 }),
        };
        ModelInfo {
            name: "double".into(),
            compiler: String::new(),
            model_hash: [0; 32],
            inputs: vec![tensor("x", DType::U8)],
            outputs: vec![tensor("y", DType::I16)],
            scratch_bytes: 2 * N as u64,
            scratch_align: 64,
            cpu_features: CpuFeatures::NONE,
            macs: 0,
            has_float_interface: true,
        }
    }

    fn model(entry: EntryPoints) -> Model {
        // SAFETY: the functions above take the tensors and scratch of `info`, and are static.
        unsafe { Model::from_parts(entry, info(), None, Box::new(())) }.unwrap()
    }

    #[test]
    fn runs_equal_on_one_thread_on_many_and_in_float() {
        fn send_sync<T: Send + Sync>(_: &T) {}
        let model = model(ENTRY);
        send_sync(&model);
        let x: Vec<u8> = (0..N).map(|i| i.to_le_bytes()[0]).collect();
        let input = [TensorRef::new(&[10, 100], &x)];
        let once = model.run(&input).unwrap();
        assert!(once[0].as_slice::<i16>().unwrap().iter().zip(&x).all(|(&y, &x)| y == 2 * i16::from(x)));

        let pool = Pool::new(3).unwrap();
        let mut session = model.session().with_pool(&pool);
        for _ in 0..3 {
            assert_eq!(session.run(&input).unwrap(), once);
        }
        let mut outputs = vec![Tensor::zeros(DType::I16, &[10, 100])];
        session.run_into(&input, &mut outputs).unwrap();
        assert_eq!(outputs, once);

        let x: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
        let y = session.run_f32(&[TensorRef::new(&[10, 100], &x)]).unwrap();
        assert!(y[0].as_slice::<f32>().unwrap().iter().zip(&x).all(|(&y, &x)| y == 2.0 * x));
    }

    #[test]
    fn a_session_can_own_its_model() {
        fn send<T: Send + 'static>(x: T) -> T {
            x
        }
        let model = Arc::new(model(ENTRY));
        let pool = Arc::new(Pool::new(2).unwrap());
        let sessions = [Session::shared(model.clone()), Session::shared(model.clone()).with_shared_pool(pool)];
        let x = [7u8; N];
        for mut session in sessions {
            drop(send(model.clone()));
            let run = std::thread::spawn(move || session.run(&[TensorRef::new(&[10, 100], &x)]).unwrap());
            assert!(run.join().unwrap()[0].as_slice::<i16>().unwrap().iter().all(|&y| y == 14));
        }
    }

    #[test]
    fn wrong_tensors_never_reach_the_code() {
        let model = model(EntryPoints { run: refuse, run_mt: None, run_f32: None, run_f32_mt: None });
        let x = [0u8; N + 1];
        let dims = [10, 100];
        let message = |inputs: &[TensorRef<'_>]| model.run(inputs).unwrap_err().to_string();
        assert_eq!(message(&[]), "the model has 1 inputs, 0 given");
        assert_eq!(message(&[TensorRef::new(&dims, &[0i8; N])]), "`x` is u8, i8 given");
        assert_eq!(message(&[TensorRef::new(&[N], &x[..N])]), "`x` has shape [10, 100], [1000] given");
        assert_eq!(message(&[TensorRef::new(&dims, &x)]), "`x` takes 1000 bytes, 1001 given");
        assert_eq!(message(&[TensorRef::new(&dims, &x[..N])]), "the model returned -2 (a CPU feature is missing)");
        assert_eq!(model.run_f32(&[]).unwrap_err(), RunError::NoFloatEdge);
        let mut none = [];
        let count = model.session().run_into(&[TensorRef::new(&dims, &x[..N])], &mut none).unwrap_err();
        assert_eq!(count, RunError::Count { what: "outputs", expected: 1, found: 0 });

        let floats = [0f32; N + 1];
        let bytes = Tensor::from_slice(&[N + 1], &floats).unwrap();
        let shifted = TensorRef::from_bytes(DType::F32, &dims, &bytes.bytes()[1..=4 * N]);
        let edge = self::model(ENTRY);
        assert_eq!(edge.run_f32(&[shifted]).unwrap_err(), RunError::Alignment { name: "x".into(), align: 4 });
    }

    #[test]
    fn missing_features_are_named() {
        let needs = ModelInfo { cpu_features: CpuFeatures::from_bits(1 << 60), ..info() };
        // SAFETY: as in `model`.
        let error = unsafe { Model::from_parts(ENTRY, needs, None, Box::new(())) }.unwrap_err();
        assert!(matches!(error, LoadError::MissingCpuFeatures { .. }));
        assert!(error.to_string().starts_with("this CPU lacks bit 60"));
    }
}
