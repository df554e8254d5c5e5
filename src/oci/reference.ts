/** How people name OCI images: `nginx`, `quay.io/org/name:tag`, `name@sha256:…`, `oci-archive:FILE`, `docker-archive:FILE`, `oci:DIR`. */
import { BangerError } from '../errors.ts';

export type ImageReference =
  | {
      from: 'registry';
      /** host with its port, e.g. `docker.io` */
      registry: string;
      /** e.g. `library/nginx` */
      repository: string;
      tag?: string;
      /** `sha256:HEX` */
      digest?: string;
      /** all of it, with nothing left out that has a default */
      text: string;
    }
  | {
      from: 'file';
      transport: 'oci-archive' | 'docker-archive' | 'oci';
      path: string;
      /** which of several in it: a tag of the layout, or the name it was saved by */
      inside?: string;
      text: string;
    };

/** A colon ends the path, for skopeo as well. */
const FILE_TRANSPORT = /^(oci-archive|docker-archive|oci):([^:]+)(?::(.{1,512}))?$/s;
/** Of the distribution specification: parts of lower-case letters and digits, with separators between. */
const PART = /^[a-z0-9]+(?:(?:\.|_|__|-{1,8})[a-z0-9]+){0,40}$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const HOST = /^(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?$/;

/** @throws BangerError `invalid_input` for what names no image */
export function parseReference(given: string): ImageReference {
  const [, transport, path, inside] = FILE_TRANSPORT.exec(given) ?? [];
  if (transport !== undefined && path !== undefined) {
    const named = inside === undefined ? {} : { inside };
    return { from: 'file', transport: transport as 'oci', path, ...named, text: given };
  }
  let rest = given.replace(/^docker:\/\//, '');
  const at = rest.indexOf('@');
  const digest = at < 0 ? undefined : rest.slice(at + 1);
  if (at >= 0) rest = rest.slice(0, at);
  const colon = rest.lastIndexOf(':');
  const hasTag = colon > rest.lastIndexOf('/');
  const tag = hasTag ? rest.slice(colon + 1) : digest === undefined ? 'latest' : undefined;
  if (hasTag) rest = rest.slice(0, colon);
  const slash = rest.indexOf('/');
  const first = slash < 0 ? '' : rest.slice(0, slash);
  // as Docker has it: what has a dot, a port or is this machine names a registry
  const isHost = /[.:]/.test(first) || first === 'localhost';
  const registry = isHost ? first : 'docker.io';
  const path1 = isHost ? rest.slice(slash + 1) : rest;
  const repository = registry === 'docker.io' && !path1.includes('/') ? `library/${path1}` : path1;
  const ok =
    HOST.test(registry) &&
    repository.length <= 255 &&
    repository.split('/').every((part) => PART.test(part)) &&
    (tag === undefined || TAG.test(tag)) &&
    (digest === undefined || DIGEST.test(digest));
  if (!ok) {
    throw new BangerError('invalid_input', `"${given}" names no OCI image.`, {
      hint: 'For example: docker.io/library/alpine:3.20   oci-archive:FILE   docker-archive:FILE   oci:DIRECTORY',
    });
  }
  const text = `${registry}/${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
  return {
    ...{ from: 'registry', registry, repository, text },
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  };
}

/** The text that names a file, or one image of it. */
export function fileText({
  transport,
  path,
  inside,
}: Omit<ImageReference & { from: 'file' }, 'text' | 'from'>): string {
  return `${transport}:${path}${inside === undefined ? '' : `:${inside}`}`;
}

/** Whether a registry is on this machine, where nobody in between can listen. */
export function isLoopback(registry: string): boolean {
  return /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?$/.test(registry);
}

/** `docker.io/library/nginx:1.27` → `nginx-1-27`. */
export function nameOfReference(reference: ImageReference): string {
  const stem =
    reference.from === 'file'
      ? nameOfFile(reference)
      : `${reference.repository.split('/').at(-1)}${reference.tag === undefined || reference.tag === 'latest' ? '' : `-${reference.tag}`}`;
  return stem
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
    .slice(0, 63)
    .replace(/-$/, '');
}

function nameOfFile({ path, inside }: { path: string; inside?: string }): string {
  const file = (path.split('/').at(-1) ?? '').replace(/(?:\.(?:tar|oci|gz|docker)){1,4}$/i, '');
  return inside === undefined ? file : `${file}-${inside.split('/').at(-1)}`;
}
