/* What a Cortex-M does first: take its stack, switch on the floating-point unit, go to newlib's start. */
extern int stack_top;
void _start(void);

static void reset(void) {
    *(volatile unsigned *)0xE000ED88 |= 0xF << 20;  /* CPACR: full access to coprocessors 10 and 11 */
    __asm__ volatile("dsb\nisb");
    _start();
}

static void fault(void) {
    for (;;) {}
}

__attribute__((section(".vectors"), used)) const void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
