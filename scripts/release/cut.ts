/** `make release VERSION=…`: gives the unreleased changes a version, in package.json, which alone has it, and in the changelog. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(import.meta.dirname, '../..');

/**
 * The changelog with a heading for the version in front of what was unreleased.
 * @throws Error when there is nothing to release
 */
export function cutChangelog(markdown: string, version: string, day: string): string {
  const [, before = '', changes = '', after = ''] =
    /^([\s\S]*?^## \[Unreleased\]\n)([\s\S]*?)((?:^## \[[\s\S]*)?)$(?![\s\S])/m.exec(markdown) ?? [];
  if (!/^- /m.test(changes)) throw new Error('CHANGELOG.md has no unreleased changes.');
  return `${before}\n## [${version}] - ${day}\n${changes.trimEnd()}\n${after === '' ? '' : `\n${after}`}`;
}

/** Whether a version comes after another one; both in the three numbers of semantic versioning. */
export function isLater(version: string, than: string): boolean {
  const numbers = (text: string) => {
    const match = /^(\d{1,9})\.(\d{1,9})\.(\d{1,9})$/.exec(text);
    if (!match) throw new Error(`"${text}" is no version such as 1.2.3.`);
    return match.slice(1).map(Number);
  };
  const [ours, theirs] = [numbers(version), numbers(than)];
  const at = ours.findIndex((number, index) => number !== theirs[index]);
  return at >= 0 && (ours[at] ?? 0) > (theirs[at] ?? 0);
}

function cut(version: string): void {
  const manifestFile = join(ROOT, 'package.json');
  const manifest = readFileSync(manifestFile, 'utf8');
  const { version: current } = JSON.parse(manifest) as { version: string };
  if (!isLater(version, current)) throw new Error(`${version} does not come after ${current}.`);
  const changelogFile = join(ROOT, 'CHANGELOG.md');
  const changelog = cutChangelog(readFileSync(changelogFile, 'utf8'), version, new Date().toISOString().slice(0, 10));
  const inManifest = (text: string) => text.replace(`"version": "${current}"`, `"version": "${version}"`);
  writeFileSync(changelogFile, changelog);
  writeFileSync(manifestFile, inManifest(manifest));
  // npm repeats it twice at the top of its lock
  const lockFile = join(ROOT, 'package-lock.json');
  writeFileSync(lockFile, inManifest(inManifest(readFileSync(lockFile, 'utf8'))));
  console.log(
    `${current} → ${version}: package.json, package-lock.json, CHANGELOG.md. Look at them, then commit and tag.`,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    cut(process.argv[2] ?? '');
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  }
}
