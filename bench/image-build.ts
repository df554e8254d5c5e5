/**
 * The same image by banger and by libguestfs' virt-customize, both emulated, in turn in one run: a copy of the bundle's
 * root grown to 3 GiB, jq, htop and tree installed, one command run, the packages listed. Prints the median of each
 * with its stages and the ratios; then a build of which nothing, and one of which the last line has changed.
 *
 *   node bench/image-build.ts BUNDLE_DIRECTORY [ROUNDS]
 *
 * Needs root, dist/banger (make build), and virt-customize with a kernel it can read:
 *   apt-get install --no-install-recommends libguestfs-tools qemu-utils linux-image-amd64
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { ImageBuilt } from '../src/api/image-build.ts';

const bundle = resolve(process.argv[2] ?? '.dev/bundle');
const ROUNDS = Number(process.argv[3] ?? 3);
const banger = join(import.meta.dirname, '../dist/banger');
const work = mkdtempSync('/tmp/banger-bench-');
const env = {
  ...process.env,
  BANGER_HOME: join(work, 'home'),
  BANGER_BUNDLE_DEFAULT: bundle,
  BANGER_WARM_AUTOMATIC: 'false',
};
const PACKAGES = ['jq', 'htop', 'tree'];
const COMMAND = 'echo built > /opt/built';
/** The bundle's root has 2 GiB already, and both sides have to grow theirs. */
const SIZE = '3G';
/** Several times what either takes on a slow machine; only a hang reaches it. */
const LIMIT_MS = 900_000;
/** What the project promises. */
const TARGETS = { ofVirtCustomize: 0.35, unchangedSeconds: 1, lastLineOfFull: 0.25 };

const recipe = join(work, 'bench.toml');

function writeRecipe(last: string): void {
  const lines = [`name = "bench"`, `size = "${SIZE}"`, `packages = ${JSON.stringify(PACKAGES)}`, `run = ["${last}"]`];
  writeFileSync(recipe, `${lines.join('\n')}\n`);
}

function seconds(action: () => void): number {
  const began = performance.now();
  action();
  return (performance.now() - began) / 1000;
}

function build(...options: string[]): ImageBuilt {
  const args = ['image', 'build', recipe, '--json', '--quiet', ...options];
  return JSON.parse(execFileSync(banger, args, { env, encoding: 'utf8', timeout: LIMIT_MS })) as ImageBuilt;
}

function virtCustomize(): void {
  const disk = join(work, 'virt.ext4');
  rmSync(disk, { force: true });
  execFileSync('cp', ['--sparse=always', join(bundle, 'rootfs.ext4'), disk]);
  execFileSync('truncate', ['--size', SIZE, disk]);
  execFileSync('e2fsck', ['-fp', disk], { stdio: 'ignore' });
  execFileSync('resize2fs', [disk], { stdio: 'ignore' });
  const args = ['--format', 'raw', '--add', disk, '--memsize', '1024', '--no-logfile', '--quiet'];
  args.push('--install', PACKAGES.join(','), '--run-command', COMMAND);
  args.push('--run-command', 'dpkg-query -W > /opt/packages');
  execFileSync('virt-customize', args, {
    env: { ...process.env, LIBGUESTFS_BACKEND: 'direct', LIBGUESTFS_BACKEND_SETTINGS: 'force_tcg' },
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: LIMIT_MS,
  });
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

function verdict(value: number, target: number): string {
  return value <= target ? `within ${target}` : `MISSED, ${target} was the target`;
}

function stages({ steps }: ImageBuilt): string {
  return steps
    .filter(({ cached }) => !cached)
    .map(({ step, durationMs }) => `    ${(durationMs / 1000).toFixed(1).padStart(6)} s  ${step}`)
    .join('\n');
}

const full: number[] = [];
const virt: number[] = [];
try {
  writeRecipe(COMMAND);
  execFileSync(banger, ['daemon', 'start', '--quiet'], { env });
  const compare = existsSync('/usr/bin/virt-customize');
  if (!compare) console.log('virt-customize is not installed: banger alone is measured.');
  for (let round = 1; round <= ROUNDS; round++) {
    let built: ImageBuilt | undefined;
    full.push(
      seconds(() => {
        built = build('--no-cache');
      }),
    );
    console.log(`round ${round}: banger ${full.at(-1)?.toFixed(1)} s`);
    if (built) console.log(stages(built));
    if (!compare) continue;
    virt.push(seconds(virtCustomize));
    console.log(`round ${round}: virt-customize ${virt.at(-1)?.toFixed(1)} s`);
  }
  const unchanged = seconds(() => build());
  writeRecipe(`${COMMAND}; echo changed`);
  let changed: ImageBuilt | undefined;
  const lastLine = seconds(() => {
    changed = build();
  });
  console.log(`\nfull build           ${median(full).toFixed(1)} s`);
  if (compare) {
    const ratio = median(full) / median(virt);
    console.log(`virt-customize       ${median(virt).toFixed(1)} s`);
    console.log(`ratio                ${ratio.toFixed(2)}  ${verdict(ratio, TARGETS.ofVirtCustomize)}`);
  }
  console.log(`nothing changed      ${unchanged.toFixed(2)} s  ${verdict(unchanged, TARGETS.unchangedSeconds)}`);
  const part = lastLine / median(full);
  console.log(
    `last line changed    ${lastLine.toFixed(1)} s, ${part.toFixed(2)} of a full build  ${verdict(part, TARGETS.lastLineOfFull)}`,
  );
  if (changed) console.log(stages(changed));
} finally {
  execFileSync(banger, ['daemon', 'stop'], { env, stdio: 'ignore' });
  rmSync(work, { recursive: true, force: true });
}
