//! Qwen2-VL with token compression against `llm_forward`.
