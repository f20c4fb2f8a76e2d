"""Inner functions: compiled into the kernels that call them, and nowhere else.

Numba optimises each function by itself, makes machine code of it, and optimises it again within each of its
callers, which take its intermediate code and not its machine code. For a function that only kernels call the
first two are in vain: 20 % of all kernels' compilation (float32). The intermediate code is simplified one
function at a time as ever; without that kernels came out 2 to 9 % slower.
"""

from __future__ import annotations

from typing import Any

from llvmlite.binding import Linkage
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import AnnotateTypes


class InnerLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of an inner function, to be linked into its callers'."""

    def _optimize_final_module(self) -> None:
        """Left to the callers."""

    def _finalize_final_module(self) -> None:
        """Loaded for its global variables; its functions are there for callers only."""
        self._shared_module = self._final_module.clone()
        for function in self._shared_module.functions:
            if function.linkage == Linkage.external and not function.is_declaration:
                function.linkage = Linkage.linkonce_odr  # as Numba links: several callers may bring it
        for function in self._final_module.functions:
            if not function.is_declaration:
                function.linkage = Linkage.available_externally
        super()._finalize_final_module()


@register_pass(mutates_CFG=False, analysis_only=True)
class _ChooseLibrary(LoweringPass):  # type: ignore[misc]
    """Lower into an `InnerLibrary`."""

    _name = "choose_inner_library"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        state.library = InnerLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


class InnerCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's compiler, but for where the code goes."""

    def define_pipelines(self) -> list[Any]:
        """The passes of ``@njit``, with one more before the code is made."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_ChooseLibrary, AnnotateTypes)
        passes.finalize()
        return [passes]
