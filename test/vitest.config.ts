// Owns: how the test runner runs: one process per file (PKCS#11 modules are per process), bounded times, no retries.
import { defineConfig } from 'vitest/config';

const config = defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 30_000,
    retry: 0,
    // A state that is waited for comes later on a busy machine; a second is too little there.
    expect: { poll: { timeout: 10_000 } },
  },
});

// biome-ignore lint/style/noDefaultExport: the test runner reads the default export
export default config;
