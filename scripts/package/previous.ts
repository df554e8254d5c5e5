/**
 * The package of an earlier commit, which `make package-test` upgrades from: built in a directory of its own, and kept, because
 * it cannot change.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { MIB } from '../../src/units.ts';

const ROOT = join(import.meta.dirname, '../..');

export interface PreviousOptions {
  /** where packages are kept, and built meanwhile */
  directory: string;
  /** the commit, as git names commits; the one before the present unless told otherwise */
  commit?: string;
  /** version the package is given, so that it is older than this one */
  version: string;
}

/**
 * @returns path of the package; nothing where the sources are no checkout, or one without that commit
 * @throws Error when the commit cannot be built; what was said is on stderr
 */
export function previousPackage({ directory, commit = 'HEAD~1', version }: PreviousOptions): string | undefined {
  let id: string;
  try {
    id = git('rev-parse', '--verify', '--quiet', `${commit}^{commit}`).trim();
  } catch {
    return undefined;
  }
  const kept = join(directory, `${id}_${version}.deb`);
  if (existsSync(kept)) return kept;
  mkdirSync(directory, { recursive: true });
  const tree = join(directory, 'tree');
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(tree);
  try {
    const archive = execFileSync('git', ['-C', ROOT, 'archive', id], { maxBuffer: 256 * MIB });
    execFileSync('tar', ['-x', '-C', tree], { input: archive });
    // the same packages are there already
    const same = git('diff', '--name-only', id, '--', 'package-lock.json') === '';
    if (same) symlinkSync(join(ROOT, 'node_modules'), join(tree, 'node_modules'));
    const run = (...argv: [string, ...string[]]) => inTree(tree, argv);
    run('make', '-s', ...(same ? ['-o', 'node_modules'] : []), 'dist/banger', 'dist/fcqemu-vsock');
    const output = join(tree, 'dist/deb');
    const options = ['--output', output, '--version', version, '--compression', 'none'];
    run('node', 'scripts/package/main.ts', 'deb', ...options);
    const [name = ''] = readdirSync(output);
    renameSync(join(output, name), kept);
    return kept;
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}

function git(...words: string[]): string {
  return execFileSync('git', ['-C', ROOT, ...words], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

function inTree(tree: string, [program, ...words]: [string, ...string[]]): void {
  const env = { ...process.env, PATH: `${join(tree, 'node_modules/.bin')}:${process.env.PATH}` };
  execFileSync(program, words, { cwd: tree, env, stdio: ['ignore', 'ignore', 'inherit'] });
}
