// The page for guests: a bundle of its own, which the server carries.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [svelte()],
  clearScreen: false,
  base: '/r/',
  worker: { format: 'es' },
  build: {
    target: 'safari16.4',
    outDir: 'dist-room',
    emptyOutDir: true,
    assetsInlineLimit: 0, // no data: URIs - strict CSP
    modulePreload: { polyfill: false },
    minify: 'oxc',
    rolldownOptions: { input: 'room.html' },
  },
});
