/** Image builds of host tests: recipes, what the daemon did for them, and what is in their images. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageBuilt } from '../../src/api/image-build.ts';
import { createRunner } from '../../src/system/runner.ts';
import type { TestHost } from './host.ts';

/** A build boots a VM, works in it and shuts it down: a minute here, several on a busy host. */
const BUILD_LIMIT_MS = 400_000;
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

export class ImageBuilds {
  readonly #host: TestHost;
  /** where its recipes lie */
  readonly recipes: string;

  /** @param recipes a directory that exists */
  constructor(host: TestHost, recipes: string) {
    this.#host = host;
    this.recipes = recipes;
  }

  /** Writes a recipe; returns its path. */
  async recipe(name: string, text: string): Promise<string> {
    const path = join(this.recipes, `${name}.toml`);
    await writeFile(path, text);
    return path;
  }

  /** Builds what must succeed. */
  async build(...args: string[]): Promise<ImageBuilt> {
    const ran = await this.#host.run(['image', 'build', ...args, '--json'], { timeoutMs: BUILD_LIMIT_MS });
    assert.equal(ran.status, 0, `${ran.stderr}${ran.stdout}`);
    return JSON.parse(ran.stdout) as ImageBuilt;
  }

  /** What the daemon gave for reasons is told with the failure: a kept VM is given up for many. */
  async revived(built: ImageBuilt): Promise<void> {
    const log = await readFile(join(this.#host.home, 'state/bangerd.log'), 'utf8');
    const told = log.split('\n').filter((line) => /kept/.test(line));
    assert.equal(stepsDone(built)[0], 'revive', `it booted; of kept VMs the log says:\n${told.join('\n')}`);
  }

  imageFile(id: string, name: string): string {
    return join(this.#host.home, 'state/store/images', id, name);
  }

  /** A file of an image, read from outside. */
  async fileIn(id: string, path: string): Promise<string> {
    return (await runner.run(['debugfs', '-R', `cat ${path}`, this.imageFile(id, 'rootfs.ext4')])).stdout;
  }
}

/** Steps that were not cached. */
export function stepsDone(built: ImageBuilt): string[] {
  return built.steps.filter(({ cached }) => !cached).map(({ step }) => step);
}
