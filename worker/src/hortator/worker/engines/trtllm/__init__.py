"""The TensorRT-LLM engine: attention DP + expert parallelism on GPUs, behind the Engine port.

- `config`: what it is told. `model_facts`: what the model's own configuration says.
- `library`: `tensorrt_llm`, imported when the engine starts. `capabilities`: what this line of it has.
- `llm_args`: configuration to arguments of `LLM`, by phase; what makes the engine wait is refused.
- `requests`: a request in the library's words. `hand_over`: KV hand-over as opaque bytes.
- `rank_books`, `group_books`: our own account of what each DP rank holds and runs (pure).
- `pass_clock`: which pass a row of statistics tells of (pure). `statistics`: rows read in a thread.
- `watchdog`: fatal errors and hangs. `engine`: all of it together.
"""
