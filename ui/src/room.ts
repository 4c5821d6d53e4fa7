// The page for guests of a meeting room, served by the server at /r/. It has no account and keeps nothing.
import { mount } from 'svelte';
import './styles/tokens.css';
import './styles/base.css';
import RoomPage from './components/RoomPage.svelte';
import { setLanguage } from './i18n/index.svelte';

setLanguage('system');
const dark = matchMedia('(prefers-color-scheme: dark)');
const paint = () => (document.documentElement.dataset.theme = dark.matches ? 'dark' : 'light');
dark.addEventListener('change', paint);
paint();
const target = document.getElementById('app');
if (target) mount(RoomPage, { target });
