/** OCI images that recipes begin with: what names one, and what it is called when it is here. */
import { resolve } from 'node:path';
import type { ImageBuild } from '../../api/image-build.ts';
import { BangerError } from '../../errors.ts';
import { fileText, nameOfReference, parseReference } from '../../oci/reference.ts';
import { commandLine } from '../../system/runner.ts';
import type { Host } from '../host.ts';
import { findPulled, isOutdated, platformOf } from '../images/oci-record.ts';
import { pullImage } from '../images/pull.ts';
import type { ImportHost } from '../images/sources.ts';
import type { Progress } from '../operations.ts';

/** Names of images and bundles have neither slash nor colon; paths of bundles begin with what no reference does. */
export function isOciBase(base: string): boolean {
  return /[/:@]/.test(base) && !/^[./~]/.test(base);
}

/** With the path of a file made whole, so that it means the same to whoever pulls it. */
export function wholeOciBase(base: string, directory: string): string {
  const reference = parseReference(base);
  if (reference.from === 'registry') return reference.text;
  return fileText({ ...reference, path: resolve(directory, reference.path) });
}

/** @returns name of the image that was pulled by this reference, undefined when there is none, or its file is another one since */
export async function pulledAs(host: Pick<Host, 'config' | 'stores'>, base: string): Promise<string | undefined> {
  const found = await findPulled(host, base, platformOf());
  return found && !(await isOutdated(found.oci, parseReference(base))) ? found.image.name : undefined;
}

/** @throws BangerError `not_found` */
export async function requirePulled(host: Host, base: string): Promise<string> {
  const name = await pulledAs(host, base);
  if (name !== undefined) return name;
  throw new BangerError('not_found', `The base ${base} is not here.`, {
    hint: `Fetch it: banger image pull ${base}`,
  });
}

/**
 * Fetches what a recipe begins with.
 * @throws BangerError as `pullImage` does; `conflict` when another image has the name it would get
 */
export async function pullBase(
  host: ImportHost,
  reference: string,
  { authFile, insecure }: Pick<ImageBuild, 'authFile' | 'insecure'>,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const access = { ...(authFile === undefined ? {} : { authFile }), ...(insecure ? { insecure } : {}) };
  try {
    await pullImage(host, { reference, ...access }, progress, signal);
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'conflict') throw error;
    throw new BangerError(
      'conflict',
      `The base ${reference} cannot be called ${nameOfReference(parseReference(reference))}: ${error.message}`,
      {
        cause: error,
        hint: `Give it another name: ${commandLine(['banger', 'image', 'pull', reference, '--name', 'NAME'])}`,
      },
    );
  }
}
