"""What every room uses: errors, files, processes, jobs that go on, addressed random numbers."""
