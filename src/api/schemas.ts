/** The bodies of bangerd's HTTP API, one zod schema each; clients use the inferred types only. */
export * from './schemas/bundle.ts';
export * from './schemas/disk.ts';
export * from './schemas/dns.ts';
export * from './schemas/event.ts';
export * from './schemas/image.ts';
export * from './schemas/image-build.ts';
export * from './schemas/leftover.ts';
export * from './schemas/operation.ts';
export * from './schemas/stats.ts';
export * from './schemas/storage.ts';
export * from './schemas/system.ts';
export * from './schemas/vm.ts';
