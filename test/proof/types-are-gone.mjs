/**
 * Loaded first by every Node in the rig: TypeScript files there have lost their types already, outside, where that takes a
 * second. Node would look for them again, which takes a minute there for the modules of one test.
 */
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

registerHooks({
  load(url, context, nextLoad) {
    if (!url.startsWith('file:') || !url.endsWith('.ts')) return nextLoad(url, context);
    return { format: 'module', source: readFileSync(fileURLToPath(url)), shortCircuit: true };
  },
});
