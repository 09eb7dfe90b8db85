//! Where a model comes from.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Fact, Graph, Int, ValueId, parse};
use qcc_runtime::manifest::Declared;

use crate::{Error, Options, reading};

/// A model to compile.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file: `.qir` is the textual form, everything else is taken for ONNX.
    Path(PathBuf),
    /// The contents of an ONNX file.
    Onnx(Vec<u8>),
    /// A graph made by other means.
    Graph(Graph),
}

impl From<&PathBuf> for Source {
    fn from(path: &PathBuf) -> Source {
        Source::Path(path.clone())
    }
}

impl From<String> for Source {
    fn from(path: String) -> Source {
        Source::Path(path.into())
    }
}

impl From<&String> for Source {
    fn from(path: &String) -> Source {
        Source::Path(path.into())
    }
}

impl From<&OsStr> for Source {
    fn from(path: &OsStr) -> Source {
        Source::Path(path.into())
    }
}

impl From<OsString> for Source {
    fn from(path: OsString) -> Source {
        Source::Path(path.into())
    }
}

impl From<Cow<'_, Path>> for Source {
    fn from(path: Cow<'_, Path>) -> Source {
        Source::Path(path.into_owned())
    }
}

impl From<&[u8]> for Source {
    fn from(bytes: &[u8]) -> Source {
        Source::Onnx(bytes.to_vec())
    }
}

impl From<&Graph> for Source {
    fn from(graph: &Graph) -> Source {
        Source::Graph(graph.clone())
    }
}

impl From<&Source> for Source {
    fn from(source: &Source) -> Source {
        source.clone()
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Source {
        Source::Path(path.to_path_buf())
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Source {
        Source::Path(path)
    }
}

impl From<&str> for Source {
    fn from(path: &str) -> Source {
        Source::Path(path.into())
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Source {
        Source::Onnx(bytes)
    }
}

impl From<Graph> for Source {
    fn from(graph: Graph) -> Source {
        Source::Graph(graph)
    }
}

impl Source {
    /// The file's name without its folder; empty if there is no file.
    pub(crate) fn file_name(&self) -> String {
        match self {
            Source::Path(path) => path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            Source::Onnx(_) | Source::Graph(_) => String::new(),
        }
    }

    /// Whether it is an ONNX model.
    pub fn is_onnx(&self) -> bool {
        match self {
            Source::Path(path) => !is_text(path),
            Source::Onnx(_) => true,
            Source::Graph(_) => false,
        }
    }

    /// Those of an ONNX file's inputs or outputs that it declares as integers.
    pub(crate) fn declared_integers(&self, graph: &Graph, values: &[ValueId]) -> Vec<Declared> {
        let one = |&v: &ValueId| {
            let (name, ty) = (graph.name_of(v).to_string(), graph.ty(v));
            if let Some(int) = whole_input(graph, v) {
                return Some(Declared { name, dtype: int.name().to_string(), scale: 1.0, zero_point: 0 });
            }
            let (scale, zero_point) = ty.uniform().map_or((0.0, 0), |u| (u.scale(), u.zero_point() as i32));
            Some(Declared { name, dtype: ty.elem.storage()?.name().to_string(), scale, zero_point })
        };
        if self.is_onnx() { values.iter().filter_map(one).collect() } else { Vec::new() }
    }

    /// Reads and verifies the model.
    pub fn load(&self, options: &Options) -> Result<Graph, Error> {
        self.load_with_remarks(options).map(|imported| imported.graph)
    }

    /// The same with what there is to say about the model.
    pub(crate) fn load_with_remarks(&self, options: &Options) -> Result<qcc_onnx::Imported, Error> {
        let imported = self.read(options)?;
        let named = |diag: Diag| if self.file_name().is_empty() { diag } else { diag.in_file(self.file_name()) };
        imported.budget.check_graph(&imported.graph).map_err(named)?;
        Ok(imported)
    }

    fn read(&self, options: &Options) -> Result<qcc_onnx::Imported, Error> {
        let graph = match self {
            Source::Path(path) if is_text(path) => read_text(path)?,
            Source::Path(path) => return Ok(qcc_onnx::import_with_remarks(path, &options.shapes)?),
            Source::Onnx(bytes) => return Ok(qcc_onnx::import_bytes_with_remarks(bytes, None, &options.shapes)?),
            Source::Graph(graph) => {
                qcc_ir::verify(graph)?;
                graph.clone()
            }
        };
        let budget = options.shapes.budget.for_file(graph.constant_bytes());
        let names = graph.values().map(|v| graph.name_of(v).to_string()).collect();
        Ok(qcc_onnx::Imported { graph, remarks: Vec::new(), names, budget })
    }
}

/// The integers that a real input of the model is in its file.
pub(crate) fn whole_input(graph: &Graph, v: ValueId) -> Option<Int> {
    let &[min, max] = graph.metadata().get(Fact::Declared, graph.name_of(v))? else { return None };
    [Int::U8, Int::I8, Int::I16].into_iter().find(|int| (Int::min(*int) as f64, Int::max(*int) as f64) == (min, max))
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "qir")
}

/// A graph from a `.qir` file and the side files that it names, which lie beside it or in `data/`. What is wrong with it is the text's fault, not qcc's.
fn read_text(path: &Path) -> Result<Graph, Error> {
    let file = path.display().to_string();
    let text = reading::text(path, "read the model")?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let read = |path: &Path| reading::bounded(path, reading::MODEL);
    let side = |name: &str| read(&folder.join(name)).or_else(|_| read(&folder.join("data").join(name)));
    let located = parse::parse_located(&text, &side).map_err(|d| d.in_file(&file))?;
    located.verify().map_err(|mut diags| {
        for d in &mut diags.0 {
            *d = Diag { code: if d.code == Code::VERIFY { Code::BAD_GRAPH } else { d.code }, ..d.clone() };
        }
        diags.in_file(&file)
    })?;
    Ok(located.graph)
}
