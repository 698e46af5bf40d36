/**
 * What the clients expect to find in a browser and Node lacks. Importing this module puts it in place;
 * it has to be imported before the client packages.
 */
import 'fake-indexeddb/auto';
import { LockManager } from './locks.js';
import { BrowserWebSocket } from './network.js';

globalThis.WebSocket = BrowserWebSocket;

if (!globalThis.navigator) globalThis.navigator = {};
if (!globalThis.navigator.locks) {
  Object.defineProperty(globalThis.navigator, 'locks', { value: new LockManager() });
}
