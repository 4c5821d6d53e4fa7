import { svelte } from '@sveltejs/vite-plugin-svelte';
import { svelteTesting } from '@testing-library/svelte/vite';
import { defineConfig } from 'vitest/config';

const host = process.env.TAURI_DEV_HOST;

export default defineConfig({
  plugins: [svelte(), svelteTesting()],
  clearScreen: false,
  server: {
    port: 1420,
    strictPort: true,
    host: host || false,
    hmr: host ? { protocol: 'ws', host, port: 1421 } : undefined,
    watch: { ignored: ['**/src-tauri/**', '**/target/**'] },
  },
  preview: { port: 1420, strictPort: true },
  envPrefix: ['VITE_', 'TAURI_ENV_'],
  build: {
    target: 'safari16.4',
    cssTarget: 'safari16.4',
    outDir: 'dist',
    emptyOutDir: true,
    assetsInlineLimit: 0, // no data: URIs (fonts, svg) - strict CSP
    cssCodeSplit: true,
    modulePreload: { polyfill: false },
    minify: process.env.TAURI_ENV_DEBUG === 'true' ? false : 'oxc',
    sourcemap: process.env.TAURI_ENV_DEBUG === 'true',
  },
  test: {
    environment: 'happy-dom',
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    css: false,
  },
});
