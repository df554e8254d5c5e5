/**
 * What a pull takes: an image of three layers from a registry on this machine, by `banger image pull`, and by skopeo, umoci and
 * `mke2fs -d` in a row, which is what people do by hand. Both begin with nothing each time, and take turns. Then a VM of it is run, and
 * one from a template; and what the daemon holds in memory while it pulls a larger image. Exits with 1 when banger takes longer, or the
 * daemon more than its limit.
 *
 *   node bench/pull.ts [MIB] [ROUNDS] [LARGE-MIB]
 *
 * Needs root, dist/banger (make build), skopeo, umoci, e2fsprogs and a bundle (node scripts/test-bundle.ts "$PWD/.dev"). Without MIB it is
 * 300, without ROUNDS 3, without LARGE-MIB 2048; 0 leaves the last part out.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { fakeRegistry } from '../test/support/fake-registry.ts';
import { TestHost } from '../test/support/host.ts';
import { rawTar, writeOciLayout } from '../test/support/oci-image.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const LAYERS = 3;
const FILE_BYTES = 256 * 1024;
const LIMIT_RESIDENT_MIB = 150;

const mib = Number(process.argv[2] ?? 300);
const rounds = Number(process.argv[3] ?? 3);
const largeMib = Number(process.argv[4] ?? 2048);
process.env.BANGER_TEST_BUNDLE ??= join(import.meta.dirname, '../.dev/bundle');

const dir = await mkdtemp('/tmp/bench-pull-');
const undo: (() => unknown)[] = [];
// the registry of the tests closes with the one who asked for it
const context = { after: (end: () => unknown) => void undo.push(end) } as unknown as TestContext;
try {
  await using host = await TestHost.create({ prefix: join(dir, 'home-') });
  const { pid } = await host.daemon();
  const registry = await fakeRegistry(context, await layoutOf('image', mib));
  const [own, byHand]: [number[], number[]] = [[], []];
  // who comes first finds the registry's files read
  await pull('warm-up', registry.name);
  await forget('warm-up');
  for (let round = 0; round < rounds; round++) {
    own.push(await seconds(() => pull('own', registry.name)));
    await forget('own');
    byHand.push(await seconds(() => pullByHand(registry.name)));
    await rm(join(dir, 'by-hand'), { recursive: true });
  }
  const [mine, theirs] = [median(own), median(byHand)];
  console.log(`${mib} MiB in ${LAYERS} layers, medians of ${rounds}`);
  console.log(`banger image pull              ${mine.toFixed(2)} s`);
  console.log(`skopeo, umoci, mke2fs -d       ${theirs.toFixed(2)} s`);
  console.log(`ratio                          ${(mine / theirs).toFixed(2)}`);
  if (mine > theirs) process.exitCode = 1;
  await pull('own', registry.name);
  const boots = await seconds(() => runVm('first'));
  await host.ok('image', 'warm', 'own', '--work-disk', 'none');
  const warm = await seconds(() => runVm('second'));
  console.log(`run of a VM of it              ${boots.toFixed(2)} s, from a template ${warm.toFixed(2)} s`);
  await host.ok('rm', '--force', '--now', 'first', 'second');
  await forget('own');
  if (largeMib > 0) {
    const large = await fakeRegistry(context, await layoutOf('large', largeMib));
    let most = 0;
    const timer = setInterval(() => {
      most = Math.max(most, residentMib(pid));
    }, 200);
    const took = await seconds(() => pull('large', large.name));
    clearInterval(timer);
    console.log(`${largeMib} MiB: ${took.toFixed(1)} s, the daemon at most ${most} MiB resident`);
    if (most > LIMIT_RESIDENT_MIB) process.exitCode = 1;
  }

  async function runVm(name: string): Promise<void> {
    await host.ok('run', name, '--image', 'own', '--work-disk', 'none');
  }

  async function pull(name: string, from: string): Promise<void> {
    await host.ok('image', 'pull', `${from}/app`, '--name', name, '--policy', 'always', '--force');
  }

  async function forget(name: string): Promise<void> {
    await host.ok('image', 'delete', name);
    await host.ok('image', 'prune', '--all');
  }
} finally {
  for (const end of undo) end();
  await rm(dir, { recursive: true, force: true });
}

async function pullByHand(from: string): Promise<void> {
  const at = (name: string) => join(dir, 'by-hand', name);
  await mkdir(at(''), { recursive: true });
  await run('skopeo', [
    '--insecure-policy',
    'copy',
    '--src-tls-verify=false',
    `docker://${from}/app`,
    `oci:${at('oci')}:image`,
  ]);
  await run('umoci', ['unpack', '--image', `${at('oci')}:image`, at('bundle')]);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', at('bundle/rootfs'), at('root.ext4'), `${mib * 2}M`]);
}

/** Files that compress by half, as programs and libraries do. */
async function layoutOf(name: string, size: number): Promise<string> {
  const layout = join(dir, name);
  const files = Math.ceil((size * MIB) / FILE_BYTES / LAYERS);
  const layers = Array.from({ length: LAYERS }, (_, layer) => ({
    tar: rawTar(
      Array.from({ length: files }, (_, index) => ({
        path: `usr/lib/part-${layer}/file-${index}`,
        data: randomBytes(FILE_BYTES / 4)
          .toString('hex')
          .padEnd(FILE_BYTES, 'x'),
      })),
    ),
  }));
  await writeOciLayout(layout, { layers });
  return layout;
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const before = performance.now();
  await work();
  return (performance.now() - before) / 1000;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

function residentMib(pid: number): number {
  const [, kib = '0'] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Math.round(Number(kib) / 1024);
}
