/** Where a work disk may be mounted in a guest. */

export const DEFAULT_WORK_MOUNT = '/root';

/** What the guest cannot boot without, or what is not a disk's at all. */
const TAKEN = ['/proc', '/sys', '/dev', '/run', '/etc', '/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/boot'];

/** A sentence about what is wrong with the path; undefined when a work disk can be mounted there. */
export function workMountProblem(path: string): string | undefined {
  if (!path.startsWith('/')) return `"${path}" is not an absolute path.`;
  if (path === '/' || path === '/var') return `${path} is on the root disk; a work disk goes below it.`;
  // the path goes through the initrd's shell and the guest's own: letters that mean nothing to either
  if (!/^(\/[A-Za-z0-9._+@-]+)+$/.test(path) || path.length > 200) {
    return `"${path}" is no plain path: names of letters, digits and ._+@- between single slashes, none at the end.`;
  }
  const words = path.split('/').slice(1);
  if (words.some((word) => word === '.' || word === '..')) return `"${path}" goes through "." or "..".`;
  const taken = TAKEN.find((directory) => path === directory || path.startsWith(`${directory}/`));
  return taken === undefined ? undefined : `${taken} belongs to the guest's system.`;
}
