/* The weights: weights.bin, as it is, at a cache line. Compile this where weights.bin lies, or tell the
 * assembler where that is (-Wa,-IFOLDER). */
#if defined(__APPLE__)
__asm__(".const_data\n.p2align 6\n.globl _model_weights\n.private_extern _model_weights\n_model_weights:\n"
        ".incbin \"weights.bin\"\n.text\n");
#elif defined(__wasm__)
__asm__(".section .rodata.model_weights,\"\",@\n.p2align 6\n.globl model_weights\n.hidden model_weights\n"
        ".type model_weights,@object\nmodel_weights:\n.incbin \"weights.bin\"\n"
        ".size model_weights, . - model_weights\n.text\n");
#elif defined(_WIN32)
__asm__(".section .rdata,\"dr\"\n.balign 64\n.globl model_weights\nmodel_weights:\n"
        ".incbin \"weights.bin\"\n.text\n");
#else
__asm__(".section .rodata\n.balign 64\n.globl model_weights\n.hidden model_weights\nmodel_weights:\n"
        ".incbin \"weights.bin\"\n.globl model_weights_end\n.hidden model_weights_end\nmodel_weights_end:\n.text\n");
#endif
