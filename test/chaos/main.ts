/**
 * `make chaos`: a long chaos run. CHAOS_SEED repeats one, CHAOS_RUNS and CHAOS_COMMANDS say how long,
 * CHAOS_SHRINK_MINUTES how long a failing sequence is made shorter.
 */
import { join } from 'node:path';
import { messageOf } from '../../src/errors.ts';
import { chaos } from './run.ts';

const number = (name: string, otherwise: number) => Number(process.env[name] ?? otherwise);
const seed = number('CHAOS_SEED', Date.now() % 2 ** 31);
const began = Date.now();
console.log(`chaos with CHAOS_SEED=${seed}`);
try {
  const count = await chaos({
    seed,
    runs: number('CHAOS_RUNS', 5),
    commands: number('CHAOS_COMMANDS', 60),
    shrinkMs: number('CHAOS_SHRINK_MINUTES', 0) * 60_000,
    bundles: process.env.CHAOS_DIRECTORY ?? join(import.meta.dirname, '../../.dev'),
    tell: (text) => console.log(`${((Date.now() - began) / 1000).toFixed(1).padStart(8)} s  ${text}`),
  });
  console.log(`${count} commands, and everything agreed after each of them.`);
} catch (error) {
  console.error(messageOf(error));
  console.error(`Repeat it with: CHAOS_SEED=${seed} make chaos`);
  process.exitCode = 1;
}
