/* What this processor can do, and its system lets a program do. __builtin_cpu_supports of gcc and clang says so as well, but
 * zig's library leaves empty what that reads. */
#ifndef PROCESSOR_H
#define PROCESSOR_H

#if defined(__x86_64__)
#include <cpuid.h>

#define UNUSED static inline __attribute__((unused))

/* A word of CPUID: eax, ebx, ecx, edx. */
enum { EAX, EBX, ECX, EDX };
UNUSED unsigned cpuid_word(unsigned leaf, unsigned part, int word) {
    unsigned words[4] = {0, 0, 0, 0};
    __get_cpuid_count(leaf, part, &words[EAX], &words[EBX], &words[ECX], &words[EDX]);
    return words[word];
}

/* Whether the system saves these registers when it changes between programs. macOS begins to at their first use. */
UNUSED int saves_registers(unsigned wanted) {
    unsigned low, high;
    if (!(cpuid_word(1, 0, ECX) & 1u << 27))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
#if defined(__APPLE__)
    wanted &= 0x6;
#endif
    return (low & wanted) == wanted;
}

/* x86-64-v3: FMA, MOVBE, AVX and F16C; BMI1, AVX2 and BMI2; LZCNT. What comes before, it has had for as long. */
UNUSED int has_avx2(void) {
    const unsigned first = 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29, second = 1u << 3 | 1u << 5 | 1u << 8;
    return (cpuid_word(1, 0, ECX) & first) == first && (cpuid_word(7, 0, EBX) & second) == second
           && (cpuid_word(0x80000001, 0, ECX) & 1u << 5) && saves_registers(0x6);
}

/* x86-64-v4: AVX-512 F, DQ, CD, BW and VL. */
UNUSED int has_avx512(void) {
    const unsigned needed = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
    return has_avx2() && (cpuid_word(7, 0, EBX) & needed) == needed && saves_registers(0xe6);
}

UNUSED int has_avx512_bf16(void) { return has_avx512() && (cpuid_word(7, 1, EAX) & 1u << 5) != 0; }

#if defined(__linux__)
/* AMX-BF16 and AMX-TILE, if Linux gives this process their registers (arch_prctl, ARCH_REQ_XCOMP_PERM). */
UNUSED int has_amx_bf16(void) {
    extern long syscall(long, ...);
    const unsigned needed = 1u << 22 | 1u << 24;
    return has_avx512_bf16() && (cpuid_word(7, 0, EDX) & needed) == needed && syscall(158, 0x1023, 18) == 0;
}
#endif
#undef UNUSED
#endif
#endif
